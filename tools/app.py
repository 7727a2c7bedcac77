"""Serve a web page: images in, reconstructions under any mask, components, nearest images and predictions out."""

import argparse

EPILOG = """\
Drop an image, paste one, or take a picture; choose how its patches are masked, or paint the mask. Side by side for each
checkpoint, the page shows
  autoencoders     what the encoder sees, the reconstruction, and its error (files that contain the decoder)
  every ViT        principal components of the patch tokens; nearest images with --features
  classifiers, detectors, segmentors
                   their predictions. These need their config, before the checkpoint, as in tools/predict.py; so do
                   autoencoders of other libraries, whose files contain no config

The page is for this machine only, unless --host says otherwise; then everybody who reaches the port can use it (it has
no password), and browsers allow a camera only through HTTPS. Nothing is fetched from, or sent to, other servers. Images
are deleted within two hours, and when the page ends.

examples:
  python tools/app.py work_dirs/demo/mae_pretrain/epoch_40.pth
  python tools/app.py EARLY.pth LATE.pth                                  # side by side, under one mask
  python tools/app.py configs/demo/detection.py work_dirs/demo/detection/iter_1700.pth
  python tools/app.py configs/mae_pretrain.py mae_vit_base_full           # the authors' weights

  python tools/embed.py CHECKPOINT PHOTOS --out features.npy
  python tools/app.py CHECKPOINT --features features.npy                  # nearest images; PHOTOS stays where it is
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='+', metavar='checkpoint',
                        help='in any format that --pretrained takes; a file NAME.py is the config of the next one')
    parser.add_argument('--features', nargs='+', default=(), metavar='FILE',
                        help='of tools/embed.py, made by one of the checkpoints')
    parser.add_argument('--host', default='127.0.0.1', help='address to serve at; 0.0.0.0: all (default: %(default)s)')
    parser.add_argument('--port', type=int, default=7860, help='(default: %(default)s)')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.visualization.app_page import serve

    exit_on_user_error(lambda: serve(**vars(args)), 'the same command serves it again')


if __name__ == '__main__':
    main()
