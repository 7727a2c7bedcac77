"""Decode every image of a data set before training, in parallel, and list the files that cannot be read."""

import argparse
import os
import sys
from pathlib import Path

from mae_mm.engine.options import KeyValues

EXAMPLES = """examples:
  python tools/check_dataset.py data/imagenet/train                        # any folder of images, label maps included
  python tools/check_dataset.py data/coco --kind coco                      # images of *.json and annotations/*.json
  python tools/check_dataset.py data/mine/labels.json --kind coco          # images of one COCO file
  python tools/check_dataset.py data/imagenet_tar/train --kind tar         # tars of tools/pack_tar.py
  python tools/check_dataset.py data/tiles --config mine.py                # read as the validation of a config does
  python tools/check_dataset.py data/tiles --reading dtype=uint16 bands=13 # 8 bits by default (docs/pixels.md)

exit codes: 0 all files are good, or few enough are bad for training to continue; 1 too many; 2 nothing to check,
or a folder or annotation file that cannot be read"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder of the data set, or a COCO file')
    parser.add_argument('--kind', default='folder', choices=['folder', 'coco', 'tar'],
                        help='layout of the data set (default: folder)')
    parser.add_argument('--config', metavar='FILE', help='read pixels as the validation of this config does')
    parser.add_argument('--reading', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='how to read them: dtype, bands, nodata, window (default: 8 bits; with an option: keep)')
    parser.add_argument('--workers', type=int, default=os.cpu_count(), help='processes (default: one for each core)')
    parser.add_argument('--out', default='bad_images.txt', help='list of the bad files (default: bad_images.txt)')
    parser.add_argument('--max-share', type=float, default=0.01, help='tolerated share of bad files (default: 0.01)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.datasets.checks.images import check_files, list_files, report
    from mae_mm.datasets.limits import exceeds_share
    from mae_mm.datasets.pixel_files import extensions_of
    from mae_mm.engine.data_check import reading_of_config
    from mae_mm.engine.exits import exit_on_user_error

    sys.stdout.reconfigure(errors='backslashreplace')  # names that are not UTF-8

    def check() -> None:
        reading = reading_of_config(args.config, args.reading or {})
        files = list_files(args.kind, args.root, extensions_of(reading.dtype))
        bad = check_files(files, args.workers, reading=reading)
        print(report(files, bad, args.max_share))
        if bad:
            lines = ''.join(f'{one.path}\t{one.reason}\n' for one in bad)
            Path(args.out).write_text(lines, encoding='utf-8', errors='surrogateescape')
            print(f'listed in {args.out}', *(one.path for one in bad if len(bad) <= 5), sep='\n  ')
        sys.exit(int(exceeds_share(len(bad), len(files), args.max_share)))

    exit_on_user_error(check)


if __name__ == '__main__':
    main()
