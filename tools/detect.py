"""Draw a trained detector's boxes and masks into images."""

import argparse
import sys

from mmengine.config import DictAction

EXAMPLES = """examples:
  python tools/detect.py configs/demo/detection.py work_dirs/demo/detection/iter_1700.pth data/demo/coco/val2017 \\
      --out work_dirs/detections --side 240 --panel panel.jpg
  python tools/detect.py CONFIG CHECKPOINT street.jpg --out DIR --device cuda --cfg-options \\
      test_dataloader.dataset.pipeline.1.scale=(1333,800) model.data_preprocessor.pad_size_divisor=32"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config that the detector was trained with')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the pictures, not among the images')
    parser.add_argument('--num', type=int, default=8, help='images from each folder, in sorted order (%(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='draw detections above it (%(default)s)')
    parser.add_argument('--side', type=int, default=0, metavar='PIXELS',
                        help='longer side of the pictures; text needs room (default: as the image)')
    parser.add_argument('--panel', metavar='FILE', help='all pictures in one, too')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (%(default)s)")
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine import runner as launch
    from mae_mm.visualization.detect import detect  # after --help, which need not wait for torch

    def draw() -> None:
        drawn = detect(**vars(args))
        print(*drawn.files, *drawn.notes, sep='\n')
        if drawn.skipped:
            print(f'{len(drawn.skipped)} images could not be drawn:', *drawn.skipped, sep='\n  ', file=sys.stderr)
            raise SystemExit(1)

    launch.exit_on_user_error(draw)


if __name__ == '__main__':
    main()
