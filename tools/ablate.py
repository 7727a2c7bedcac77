"""Run the rows of one or more tables of ablations: pre-training, then fine-tuning and linear probing of each."""

import argparse
import os
import sys
from pathlib import Path

from mae_mm.engine.options import KeyValues

EXAMPLES = """examples:
  python tools/ablate.py configs/ablation/mask_ratio.py --base configs/demo/ablation.py --rows 50 75 90    # 2 cores
  python tools/ablate.py configs/ablation/decoder_depth.py configs/ablation/sampling.py --base configs/demo/ablation.py
  python tools/ablate.py configs/ablation/sampling.py --gpus 8 --seeds 1        # the published recipes, ImageNet-1K
  python tools/ablate.py configs/ablation/target.py --tokenizer dalle_encoder.pth --gpus 8
  python tools/ablate.py configs/ablation/sampling.py --rows block_75 --write-config work_dirs/block_75.py

Writes DIR/TABLE/table.md, table.csv, results.json and, for mask_ratio and schedule, plot.png. Repeat the same command
after an interruption: complete runs are kept, others resume. A run that fails does not stop the others; it is listed at
the end, and the exit code is 1. Rows whose pre-training is the same are pre-trained once, also between tables of one
DIR. --write-config gives one row as a complete config, for a cluster: bash tools/slurm_train.sh PARTITION JOB FILE"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tables', nargs='+', type=Path, metavar='TABLE', help='table files, configs/ablation/….py')
    parser.add_argument('--base', metavar='CONFIG', help='pre-training config that the rows change, with the '
                        'configs of its transfers (default: ViT-L/16, 800 epochs)')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/ablation'), metavar='DIR',
                        help='output folder (default: %(default)s)')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help='rows to run, as ROW or TABLE/ROW (default: all)')
    parser.add_argument('--write-config', type=Path, metavar='FILE',
                        help='write the complete config of one row and run nothing')
    parser.add_argument('--seeds', type=int, default=2, metavar='N', help='runs of each row (default: %(default)s)')
    parser.add_argument('--tokenizer', metavar='FILE', help="weights of DALL-E's encoder, for the row of dVAE tokens")
    parser.add_argument('--workers', type=int, metavar='N',
                        help='runs at a time (default: one per core; with a GPU: 1)')
    parser.add_argument('--gpus', type=int, default=0, metavar='N', help='GPUs of this machine for each run')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the pre-training configs')
    parser.add_argument('--transfer-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the configs of fine-tuning and linear probing')
    return parser.parse_args()


def write_row(args: argparse.Namespace) -> None:
    """Write one row as a config, and print the commands that train and transfer it."""
    from mae_mm.transfer.rows import apply_row, find_transfers, read_tables

    rows = [row for table in read_tables(args.tables, args.rows).values() for row in table.rows.values()]
    if len(rows) != 1:
        raise ValueError(f'--write-config writes one row; name it with --rows: {", ".join(row.path for row in rows)}')
    args.write_config.parent.mkdir(parents=True, exist_ok=True)
    cfg = apply_row(rows[0], args.base, args.cfg_options)
    args.write_config.write_text(f'"""{rows[0].title} ({rows[0].source})."""\n{cfg.pretty_text}')
    print(f'bash tools/dist_train.sh {args.write_config} 8')
    transfers = find_transfers(rows[0], args.base)
    for path in (transfers[key] for key in ('finetune', 'linear') if key in transfers):
        print(f'bash tools/dist_train.sh {path} 8 --pretrained CHECKPOINT')


def run_tables(args: argparse.Namespace) -> None:
    """Run the rows and print the tables."""
    import torch

    from mae_mm.transfer.ablation import ablate

    workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
    summaries = ablate(
        args.tables, args.out, args.base, args.seeds, args.rows, args.cfg_options, args.transfer_options,
        args.tokenizer, workers, args.gpus)
    failed = {}
    for name, summary in summaries.items():
        print(f'\n## {name}\n\n{(args.out / name / "table.md").read_text()}')
        failed.update(summary['failed'])
    if failed:
        print('\n'.join(f'failed: {name}: {error}' for name, error in failed.items()), file=sys.stderr)
        print('Repeat the same command to run these again.', file=sys.stderr)
        sys.exit(1)


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error

    exit_on_user_error(lambda: write_row(args) if args.write_config else run_tables(args), 'the same command continues')


if __name__ == '__main__':
    main()
