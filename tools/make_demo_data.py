"""Make the demo data set: small real image files in the layout of ImageNet, COCO, ADE20K, iNaturalist and Places365."""

import argparse
import os
import sys

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.demo_data.multiband import make_multiband_data
from mae_mm.demo_data.preview import write_preview


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="""examples:
  python tools/make_demo_data.py                          3,000 train and 504 val images in data/demo
  python tools/make_demo_data.py --scale 10 --workers 8   ten times the train images; val stays the same
  python tools/make_demo_data.py --scale 0.02 --out /tmp/tiny
  python tools/make_demo_data.py --multiband              1,500 images of 6 bands and 16 bits in data/demo_multiband
  python tools/make_demo_data.py --preview panel.png      one picture of 24 scenes with all annotations, no data

The images show objects of twelve categories (a shape and a texture each) in front of photographs from scikit-image.
The same settings give the same files for any number of workers; complete data are kept. docs/demo_data.md describes the
files and lists the licence of each photograph.""",
    )
    parser.add_argument('--out', metavar='DIR', help='folder to write (default: data/demo, or data/demo_multiband)')
    parser.add_argument(
        '--multiband', action='store_true', help='images of 6 bands and 16 bits, whose classes need all of them')
    parser.add_argument(
        '--scale',
        type=float,
        default=1,
        metavar='N',
        help='factor on the number of train images; a fraction shrinks val too (default: %(default)s, 3,000 images)',
    )
    parser.add_argument('--seed', type=int, default=0, metavar='S', help='seed of the scenes (default: 0)')
    cores = os.cpu_count()
    parser.add_argument(
        '--workers', type=int, default=cores, metavar='W', help=f'processes (default: {cores}, all cores)'
    )
    parser.add_argument('--preview', metavar='PICTURE', help='write one picture of 24 scenes instead of the data')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        if args.preview:
            print(write_preview(args.preview, args.seed))
        elif args.multiband:
            make_multiband_data(args.out or 'data/demo_multiband', args.seed)
        else:
            make_demo_data(args.out or 'data/demo', args.scale, args.seed, args.workers)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'make_demo_data: {error}')


if __name__ == '__main__':
    main()
