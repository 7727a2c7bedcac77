"""Transfer a checkpoint to classification, detection and segmentation; write tables and one HTML report."""

import argparse
import os
import sys
from pathlib import Path

from mae_mm.engine.options import KeyValues

EXAMPLES = """suites:
  demo       demo-classification, demo-detection and demo-segmentation: each from the checkpoint and from random
             weights under one budget, on demo images; about 40 minutes on two cores, for checkpoints of configs/demo/
  imagenet   fine-tuning and linear probing
  coco       ViTDet, Mask R-CNN with the paper's pyramid
  ade20k     UperNet
  inat       iNaturalist 2017, 2018, 2019
  places     Places205, Places365
  all        these five, with the recipes for the size of the checkpoint next to published results
  partial    fine-tuning of the last 0, 0.5, 1, 2 … 24 blocks of a ViT-L, with a plot; demo-partial: at demo scale
             (the paper chose the epochs for each number of blocks: --epochs 50 100 200)

examples:
  python tools/transfer.py work_dirs/demo/mae_pretrain_long/epoch_720.pth --suite demo
  python tools/transfer.py mae_pretrain_vit_base.pth --suite coco --gpus 8 --out work_dirs/transfer_b
  python tools/transfer.py mae_pretrain_vit_large.pth --suite partial --epochs 50 100 200 --gpus 8
  python tools/transfer.py CHECKPOINT --suite demo-classification --seeds 1 --cfg-options train_cfg.max_epochs=4

CHECKPOINT may be in any format that tools/convert_checkpoint.py reads. Repeat the same command after an
interruption: complete runs are kept, long ones resume from their newest checkpoint. A transfer that fails does not stop
the others; it is listed at the end, and the exit code is 1."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help="MAE weights that fit the suite's encoder")
    parser.add_argument('--suite', required=True, metavar='NAME', help='transfers to run, see below')
    parser.add_argument('--out', default='work_dirs/transfer', metavar='DIR',
                        help='folder for report.html, results.json and a folder for each run (default: %(default)s)')
    parser.add_argument('--seeds', type=int, metavar='N', help="runs of each kind (default: the suite's, 1 to 3)")
    parser.add_argument('--starts', nargs='+', choices=['random', 'mae'],
                        help='sides to run (default: both in the demo, mae in the others)')
    parser.add_argument('--epochs', type=int, nargs='+', metavar='N',
                        help='partial fine-tuning: try each of these for every number of blocks (paper: 50 100 200)')
    parser.add_argument('--workers', type=int, metavar='N',
                        help='runs at a time (default: one per core; with a GPU: 1)')
    parser.add_argument('--gpus', type=int, default=0, metavar='N',
                        help='GPUs of this machine for each run (default: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of all configs')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine import runner as launch
    from mae_mm.engine.exits import exit_on_user_error

    def run() -> None:
        import torch

        from mae_mm.checkpoint.contents import read_checkpoint
        from mae_mm.transfer.comparison import compare
        from mae_mm.transfer.report import write_report
        from mae_mm.transfer.suites import GROUPS, find_suites

        launch.check_file(args.checkpoint, 'CHECKPOINT')
        suites = find_suites(args.suite, read_checkpoint(args.checkpoint), args.epochs or ())
        for name in set(GROUPS.get(args.suite, ())) - set(suites):
            print(f'left out: {name}: there is no recipe for an encoder of this size')
        out, summaries, failed = Path(args.out), {}, {}
        workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
        for name, suite in suites.items():
            suite = suite._replace(starts=tuple(args.starts or suite.starts))
            try:
                summaries[name] = compare(
                    suite, args.checkpoint, out / name, args.seeds, args.cfg_options, workers, args.gpus)
            except (ValueError, OSError) as error:  # no data, say: the other suites may have theirs
                failed[name] = str(error)
                continue
            failed.update({f'{name}/{run}': error for run, error in summaries[name]['failed'].items()})
            print(f'\n{(out / name / "table.md").read_text()}')
        write_report(out / 'report.html', args.checkpoint, suites, summaries, failed)
        print(f'{out / "report.html"}: tables, curves, pictures, configs; {out / "results.json"}: the figures')
        if failed:
            names = '\n'.join(f'failed: {name}: {error}' for name, error in failed.items())
            print(f'{names}\nRepeat the same command to run these again.', file=sys.stderr)
            sys.exit(1)

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
