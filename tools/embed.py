"""Write the features of any number of images to a file, and show nearest images."""

import argparse
import os

from mae_mm.engine.options import positive

EPILOG = """\
IMAGES are image files, folders (flat or nested), tars, folders of tars, quoted patterns of tars, and URLs of tars, as
--data of tools/train.py. CHECKPOINT is any that `--pretrained` reads: of pre-training, an extracted encoder, a
classifier, detector or segmentor of this project, of timm, transformers, mmpretrain, the MAE release. Sizes and pixel
statistics are the file's.

  --pool mean      one vector for each image, the mean of its patch tokens
  --pool cls       one vector, the class token
  --pool tokens    all patch tokens, row by row: (images, patches, width)
  --blocks K       concatenates the last K blocks; each passes through the encoder's final norm

The rows are in the order of the list of images. Their names are in OUT.names.txt, one in each line, or in the column
`name` of parquet. Images that cannot be read are left out and listed in OUT.unreadable.txt; if they are more than
--max-bad, the run stops, as a training does. OUT.json says how the file was made.

An interrupted run is continued by the same command, to the same file, bit by bit; what is there so far lies in
OUT.partial/. Other weights, options or names of images are refused; --overwrite starts anew.

examples:
  python tools/embed.py work_dirs/mae_pretrain/epoch_800.pth PHOTOS --out features.npy
  python tools/embed.py CHECKPOINT 'shards/*.tar' --out features.parquet --pool cls --device cuda --workers 8
  python tools/embed.py CHECKPOINT PHOTOS --out features.npy --neighbours 8 --html gallery.html --queries 20
  python tools/embed.py CHECKPOINT PHOTOS --out features.npy --neighbours 8 --html mine.html --queries cat.jpg dog.jpg

  numpy.load('features.npy', mmap_mode='r')   # (images, width) float32

exit codes: 0 written; 2 a mistake in the command line or the data; 3 stopped by a full disk or too many unreadable
images, the message says how to continue; 130 Ctrl-C
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='file, folder of transformers or URL with an encoder')
    parser.add_argument('images', nargs='+', metavar='images', help='files, folders, tars, patterns of tars, URLs')
    parser.add_argument('--out', required=True, metavar='FILE', help='features.npy, .safetensors or .parquet')
    parser.add_argument('--pool', choices=['mean', 'cls', 'tokens'], default='mean',
                        help='what to keep of an image (default: mean)')
    parser.add_argument('--blocks', type=positive, default=1, metavar='K',
                        help='concatenate the last K blocks (default: 1)')
    parser.add_argument('--size', type=positive, nargs='+', metavar='PIXELS',
                        help="side, or height and width, of resized and cropped images (default: the checkpoint's)")
    parser.add_argument('--batch-size', type=positive, default=64, help='images at a time (default: 64)')
    parser.add_argument('--workers', type=int, default=min(8, len(os.sched_getaffinity(0)) - 1),
                        help='processes that load images (default: one fewer than cores, at most 8; here %(default)s)')
    parser.add_argument('--device', help='device to compute on (default: a GPU if there is one)')
    parser.add_argument('--max-bad', type=float, default=0.01, metavar='SHARE',
                        help='share of the images that may be unreadable (default: %(default)s; one always may)')
    parser.add_argument('--overwrite', action='store_true', help='start anew, whatever --out is')
    parser.add_argument('--neighbours', type=positive, metavar='K', help='show the K nearest images of each query')
    parser.add_argument('--html', metavar='FILE', help='where to show them: one page with all pictures in it')
    parser.add_argument('--queries', nargs='+', default=['10'], metavar='N|FILE',
                        help='how many of the images, evenly spaced, or image files (default: 10)')
    args = parser.parse_args()
    if bool(args.neighbours) != bool(args.html):
        parser.error('--neighbours K and --html FILE go together')
    if args.html and args.pool == 'tokens':
        parser.error('--neighbours compares images: it needs --pool mean or cls')
    if args.size and len(args.size) > 2:
        parser.error(f'--size takes one or two numbers, got {len(args.size)}')
    if args.workers < 0:
        parser.error(f'--workers must be 0 or more, got {args.workers}')
    if not 0 <= args.max_bad <= 1:
        parser.error(f'--max-bad must be a share in [0, 1], got {args.max_bad}')
    return args


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.engine.runner import check_device
    from mae_mm.evaluation.embed import Images, embed
    from mae_mm.evaluation.encoder import load_encoder
    from mae_mm.evaluation.feature_file import check_name
    from mae_mm.visualization.gallery import check_gallery, write_gallery

    def run() -> None:
        check_name(args.out)
        if args.device:
            check_device(args.device)
        size = args.size and (args.size[0] if len(args.size) == 1 else args.size)
        encoder = load_encoder(args.checkpoint, size, args.device)
        images = Images(args.images, encoder)
        if args.html:
            check_gallery(args.html, args.neighbours, args.queries, len(images))
        file = embed(encoder, images, args.out, args.pool, args.blocks, args.batch_size, args.workers, args.max_bad,
                     args.overwrite)
        if args.html:
            write_gallery(args.html, encoder, images, file, args.neighbours, args.queries, args.checkpoint)
            print(f'nearest images: {args.html}')

    exit_on_user_error(run, 'the same command continues')


if __name__ == '__main__':
    main()
