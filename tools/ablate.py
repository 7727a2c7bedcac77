"""Run the rows of one or more tables of the MAE paper: pre-training, then fine-tuning and linear probing of each."""

import argparse
import os
import sys
from pathlib import Path

from mmengine.config import DictAction

EXAMPLES = """examples:
  python tools/ablate.py configs/ablation/mask_ratio --base configs/demo/ablation.py --rows 25 50 75    # 2 cores
  python tools/ablate.py configs/ablation/decoder_depth configs/ablation/sampling --base configs/demo/ablation.py
  python tools/ablate.py configs/ablation/sampling --gpus 8 --seeds 1           # the published recipes, ImageNet-1K
  python tools/ablate.py configs/ablation/target --tokenizer dalle_encoder.pth --gpus 8

Writes DIR/TABLE/table.md, table.csv, results.json and, for mask_ratio and schedule, plot.png. Started again, the same
command goes on where it stopped; a run that fails is named at the end, and the exit code is 1. Rows whose pre-training
is the same are pre-trained once, also between tables of one DIR. On a cluster of several machines each row is a config
of its own: bash tools/slurm_train.sh PARTITION JOB configs/ablation/TABLE/ROW.py"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE', help='folders of rows, configs/ablation/…')
    parser.add_argument('--base', metavar='CONFIG', help='pre-training config to apply the rows to (default: ViT-L/16, '
                        '800 epochs, as the rows have it)')
    parser.add_argument('--finetune', metavar='CONFIG', help="(default: of the base's `transfers`)")
    parser.add_argument('--linear', metavar='CONFIG', help='(default: likewise)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/ablation'), metavar='DIR', help='(%(default)s)')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='rows to run, as ROW or TABLE/ROW (default: all)')
    parser.add_argument('--seeds', type=int, default=2, metavar='N', help='runs of each row (%(default)s)')
    parser.add_argument('--tokenizer', metavar='FILE', help="weights of DALL-E's encoder, for the row of dVAE tokens")
    parser.add_argument('--workers', type=int, metavar='N',
                        help='runs at a time (default: one for each core; with a GPU: 1)')
    parser.add_argument('--gpus', type=int, default=0, metavar='N', help='GPUs of this machine for each run')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of the pre-training configs')
    parser.add_argument('--transfer-options', nargs='+', action=DictAction, metavar='KEY=VALUE',
                        help='override keys of the configs of fine-tuning and linear probing')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error

    def run() -> None:
        import torch

        from mae_mm.transfer.ablation import ablate, find_recipes

        recipes = find_recipes(args.base, args.finetune, args.linear)
        workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
        summaries = ablate(
            args.tables, recipes, args.out, args.seeds, args.rows, args.cfg_options,
            args.transfer_options, args.tokenizer, workers, args.gpus)
        failed = {}
        for name, summary in summaries.items():
            print(f'\n## {name}\n\n{(args.out / name / "table.md").read_text()}')
            failed.update(summary['failed'])
        if failed:
            print('\n'.join(f'failed: {name}: {error}' for name, error in failed.items()), file=sys.stderr)
            print('The same command repeats these alone.', file=sys.stderr)
            sys.exit(1)

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
