"""Fine-tuning, linear probing, partial fine-tuning and k-NN on the demo data, from MAE and from random weights."""

import argparse
import os
from pathlib import Path

from mmengine.config import DictAction

EXAMPLES = """examples:
  python tools/demo_classification.py --pretrained work_dirs/demo/mae_pretrain_long/epoch_720.pth
  python tools/demo_classification.py --pretrained CHECKPOINT --seeds 1 --cfg-options train_cfg.max_epochs=10

Started again after an interruption, the same command goes on; finished runs are not repeated. About 25 minutes on two
cores. The runs are the configs configs/demo/classification*.py; each leaves its log and result in a folder of --out."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pretrained', required=True, metavar='CHECKPOINT', help='MAE weights of the demo encoder')
    parser.add_argument('--out', default='work_dirs/demo_classification', metavar='DIR', help='(default: %(default)s)')
    parser.add_argument('--seeds', type=int, default=3, metavar='N', help='runs of each kind (default: 3)')
    parser.add_argument('--workers', type=int, metavar='N',
                        help='runs at a time (default: one for each core; with a GPU: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of all configs')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import torch

    from mae_mm import launch
    from mae_mm.demo_classification import run_demo

    def run() -> None:
        workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
        run_demo(args.pretrained, Path(args.out), args.seeds, args.cfg_options, workers)
        print((Path(args.out) / 'table.md').read_text())
        print(f'table.md and results.json are in {args.out}')

    launch.exit_on_user_error(run)


if __name__ == '__main__':
    main()
