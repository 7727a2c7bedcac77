"""Write encoder, classifier or reconstructor as ONNX or torch.export, for runtimes without this project."""

import argparse

EPILOG = """\
The file takes its name only after its outputs were compared with PyTorch's, for several numbers and sizes of images:
more than 1e-4 of difference (fp16: 2 % of the largest output) is an error. Images are float32 (N, C, H, W),
normalised; mean, std, size, resizing, channels and names of classes are in the metadata. docs/export.md uses a file in
ten lines.

  --what           inputs           outputs
  encoder          images           mean_token (N, D), patch_tokens (N, L, D), class_token (N, D)
  classifier       images           logits (N, classes), scores (N, classes), their softmax
  reconstructor    images, mask     reconstruction (N, C, H, W); mask (N, H / patch, W / patch) bool, true = hidden

examples:
  python tools/export.py work_dirs/demo/mae_pretrain/epoch_40.pth encoder.onnx
  python tools/export.py work_dirs/demo/mae_pretrain/epoch_40.pth reconstructor.onnx --what reconstructor
  python tools/export.py work_dirs/demo/classification/epoch_14.pth classifier.onnx --fp16
  python tools/export.py CHECKPOINT encoder.pt2 --to torch-export --img-size 384 512 --fixed-size
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CHECKPOINT',
                        help='of pre-training or of a classifier, in any format of docs/checkpoints.md')
    parser.add_argument('out', metavar='OUT', help='file to write, .onnx or .pt2')
    parser.add_argument('--to', choices=('onnx', 'torch-export'), default='onnx', help='format (default: %(default)s)')
    parser.add_argument('--what', choices=('encoder', 'classifier', 'reconstructor'),
                        help='part to export (default: classifier if CHECKPOINT has a head, else encoder)')
    parser.add_argument('--fp16', action='store_true',
                        help='weights and computation in float16; inputs and outputs stay float32')
    parser.add_argument('--img-size', nargs='+', type=int, metavar='PX',
                        help="side, or height and width, that images are brought to (default: the checkpoint's)")
    parser.add_argument('--fixed-size', action='store_true',
                        help='accept images of that size alone, for runtimes without antialiased Resize')
    args = parser.parse_args()
    if args.img_size and (len(args.img_size) > 2 or min(args.img_size) < 1):
        parser.error(f'--img-size must be one or two numbers of pixels above 0, got {args.img_size}')
    return args


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.evaluation.export import export

    exit_on_user_error(lambda: export(**vars(args)), again='the same command tries again')


if __name__ == '__main__':
    main()
