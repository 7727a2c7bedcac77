"""Mean, deviation, percentiles and no-data of each band of your images, and the lines of a config for them."""

import argparse
import os

from mae_mm.engine.options import band

EXAMPLES = """examples:
  python tools/pixel_statistics.py data/tiles                         # 2,000 images of the folder
  python tools/pixel_statistics.py data/tiles --all --bands nir red green --nodata 0
  python tools/pixel_statistics.py data/tiles --out mine.py           # a config: train.py mine.py --data data/tiles
  python tools/pixel_statistics.py PHOTOS --config configs/own_data/mae_pretrain.py --out mine.py

Files are read as they are: 8 and 16 bits, floats, any number of bands (docs/pixels.md). tools/train.py --own-statistics
measures the views that a run trains on."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', help='a folder of images, nested or not, a tar, a folder of tars')
    size = parser.add_mutually_exclusive_group()
    size.add_argument('--images', type=int, default=2000, help='how many images are looked at (default: 2000)')
    size.add_argument('--all', action='store_true', help='look at every image')
    parser.add_argument('--bands', nargs='+', type=band, help='numbers from 1, or names in GeoTIFFs (default: all)')
    parser.add_argument('--nodata', type=float, help='value of pixels without data (default: what the files name)')
    parser.add_argument('--window', nargs=2, type=float, metavar=('CENTRE', 'WIDTH'), help='range to cut values to')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes (default: one for each core)')
    parser.add_argument('--config', default='configs/mae_pretrain.py', help='base of --out (default: %(default)s)')
    parser.add_argument('--out', metavar='FILE.py', help='write a config for such images')
    args = parser.parse_args()
    if args.images < 1:
        parser.error(f'--images must be 1 or more, got {args.images}')
    return args


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.engine.pixel_statistics import pixel_statistics

    reading = {key: getattr(args, key) for key in ('bands', 'nodata', 'window') if getattr(args, key) is not None}
    exit_on_user_error(lambda: pixel_statistics(
        args.folder, None if args.all else args.images, args.workers, reading, args.config, args.out))


if __name__ == '__main__':
    main()
