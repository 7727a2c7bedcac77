"""Draw what a trained segmentor sees in images: classes as colours, beside the truth for images of its data set."""

import argparse

EXAMPLES = """examples:
  python tools/segment.py configs/demo/segmentation.py work_dirs/demo/segmentation/iter_600.pth \\
      data/demo/ade/ADEChallengeData2016/images/validation --out overlay.jpg
  python tools/segment.py CONFIG CHECKPOINT street.jpg kitchen.jpg --out overlay.png --opacity 0.4"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config that the segmentor was trained with')
    parser.add_argument('checkpoint', help='what tools/train.py wrote, e.g. work_dirs/NAME/iter_N.pth')
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='FILE', help='png or jpg to write')
    parser.add_argument('--num', type=int, default=4, help='images from each folder, in sorted order (%(default)s)')
    parser.add_argument('--opacity', type=float, default=0.6, help='of the colours, in [0, 1] (%(default)s)')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (%(default)s)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine import runner as launch  # after --help, which need not wait for torch
    from mae_mm.visualization import overlay  # after --help, which need not wait for torch

    launch.exit_on_user_error(lambda: overlay.draw_overlays(**vars(args)))


if __name__ == '__main__':
    main()
