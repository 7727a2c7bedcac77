"""What a checkpoint is worth: transfers from it beside equal ones from random weights, as one table for each task."""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import DictAction

EXAMPLES = """examples:
  python tools/transfer.py work_dirs/demo/mae_pretrain_long/epoch_720.pth --suite demo-classification
  python tools/transfer.py CHECKPOINT --suite demo-classification --seeds 1 --cfg-options train_cfg.max_epochs=4

CHECKPOINT may be in any format that tools/convert_checkpoint.py reads. Started again after an interruption, the same
command goes on; finished runs are not repeated. Every run leaves its log, config and result in a folder of --out. A run
that fails does not stop the others: it is named at the end, and the exit code is 1."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help="MAE weights that fit the suite's encoder")
    parser.add_argument('--suite', required=True, metavar='NAME', help='which transfers; a wrong name lists them')
    parser.add_argument('--out', metavar='DIR', help='(default: work_dirs/transfer)')
    parser.add_argument('--seeds', type=int, metavar='N', help="runs of each kind (default: the suite's, 2 or 3)")
    parser.add_argument('--workers', type=int, metavar='N',
                        help='runs at a time (default: one for each core; with a GPU: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of all configs')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm import launch

    def run() -> None:
        import torch

        from mae_mm.comparison import compare
        from mae_mm.suites import SUITES

        if args.suite not in SUITES:
            raise ValueError(f'--suite {args.suite!r} is none of {", ".join(SUITES)}')
        out = Path(args.out or 'work_dirs/transfer') / args.suite
        workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
        summary = compare(SUITES[args.suite], args.checkpoint, out, args.seeds, args.cfg_options, workers)
        print(f'{(out / "table.md").read_text()}\ntable.md and results.json are in {out}')
        if summary['failed']:
            sys.exit(1)

    launch.exit_on_user_error(run)


if __name__ == '__main__':
    main()
