"""Look at what a checkpoint sees: reconstructions, components of patch tokens, attention, patches that look alike."""

import argparse

from mae_mm.engine.options import KeyValues, band

WHAT = ('reconstruction', 'pca', 'attention', 'neighbours')
EPILOG = """\
A picture has a row for each image, a page a column. --what draws
  reconstruction   what the encoder sees, what the decoder predicts for every patch, and the prediction with the visible
                   patches pasted in. Models of normalised pixels predict contrast, not brightness: each patch is shown
                   with its true mean and standard deviation. --overlay adds half original, half reconstruction in the
                   masked patches, which are outlined: sharp where they agree. CHECKPOINT must contain the decoder, as
                   the files written by pre-training do; encoders extracted for transfer do not
  pca              the first three principal components of the patch tokens as colours, one basis for all images
  attention        how much the class token attends to each patch, by head. Encoders of detectors with windows have no
                   class token: there, the mean attention of all patches, in the blocks without windows
  neighbours       how similar all patch tokens of all images are to those of some patches
The last three take pre-trained files, extracted encoders, and the files of classifiers, detectors and segmentors.

An --out that ends with .html is a page with all of them in one file, which needs no network. With neighbours, a click
on a patch shows what resembles it. The page is limited to 2 MB of tokens and 3 MB of pictures: of many images, pictures
become smaller, and tokens are compared by fewer numbers, or can no longer be clicked.

examples:
  python tools/visualize.py work_dirs/demo/mae_pretrain/epoch_40.pth data/demo/flat/val --out panel.png
  python tools/visualize.py CHECKPOINT cat.jpg dog.jpg --out harder.png --mask-ratio 0.9 --seed 3
  python tools/visualize.py CHECKPOINT PHOTOS --what pca attention neighbours --out page.html
  python tools/visualize.py DETECTOR street.jpg --what pca neighbours --size 512 1024 --patch 1:700,300 --out street.png
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', help='e.g. work_dirs/NAME/epoch_N.pth, in any format that --pretrained takes')
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='FILE', help='a page (.html) or a picture (e.g. .png)')
    parser.add_argument('--what', nargs='+', choices=WHAT, default=WHAT[:1], metavar='VIEW',
                        help=f'{", ".join(WHAT)}: one or more (default: {WHAT[0]})')
    parser.add_argument('--num', type=int, default=8, help='images from each folder, in sorted order (default: 8)')
    parser.add_argument('--size', type=int, nargs='+', metavar='PX',
                        help="side of the images, or their height and width, in pixels (default: the checkpoint's)")
    parser.add_argument('--bands', nargs='+', type=band, metavar='BAND',
                        help='which bands stand for red, green and blue, or one as gray: numbers from 1, or names '
                             '(default: red, green, blue where the checkpoint names its bands, else the first three)')
    parser.add_argument('--block', type=int, default=-1,
                        help='whose tokens or attention are shown, from 0; -1 is the last (default: %(default)s)')
    parser.add_argument('--patch', nargs='+', default=(), metavar='IMAGE:X,Y',
                        help='neighbours: patches to compare with, by the number of the image, from 1, and a pixel of '
                             'what the encoder gets (default: the centres of the first images)')
    parser.add_argument('--mask-ratio', type=float,
                        help="reconstruction: masked fraction, in (0, 1) (default: the config's)")
    parser.add_argument('--seed', type=int, default=0, help='reconstruction: seed of the masks (default: %(default)s)')
    parser.add_argument('--overlay', action='store_true', help='reconstruction: add the overlay column')
    parser.add_argument('--config', help='reconstruction: config of the pre-training, for checkpoints that do not '
                                         'contain it, e.g. those of other libraries')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of --config')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.visualization.views import visualize

    exit_on_user_error(lambda: visualize(**vars(args)))


if __name__ == '__main__':
    main()
