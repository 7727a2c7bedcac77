"""What checkpoints are worth: on your own labelled images (--data), or in the transfers of a suite (--suite)."""

import argparse
import math
import os
import sys
from pathlib import Path

from mae_mm.engine.options import KeyValues, positive
from mae_mm.paths import is_released

EXAMPLES = """own data:
  --data LABELLED recognises class folders (also below train/ and val/), tables of paths and labels, COCO annotations
  with images, and images/ beside label maps of the same names, and says what it found. Every checkpoint and random
  weights are fine-tuned with the same images, steps and search of the learning rate, on 5, 25 and 100 % of the labels,
  three seeds each; report.html says which start is better, by how much, and how many labels that is worth.

suites:
  demo       demo-classification, demo-detection and demo-segmentation: each from the checkpoint and from random
             weights under one budget, on demo images; about 40 minutes on two cores, for checkpoints of configs/demo/
  demo-multiband  classification, detection and segmentation of demo images of six bands, with all bands and with three
  imagenet   fine-tuning, linear and attentive probing
  coco       ViTDet, Mask R-CNN with the paper's pyramid
  ade20k     UperNet
  inat       iNaturalist 2017, 2018, 2019
  places     Places205, Places365
  all        these five, with the recipes for the size of the checkpoint next to published results
  partial    fine-tuning of the last 0, 0.5, 1, 2 … 24 blocks of a ViT-L, with a plot; demo-partial: at demo scale
             (the paper chose the epochs for each number of blocks: --epochs 50 100 200)

examples:
  python tools/transfer.py RUN.pth mae_pretrain_vit_base.pth --data LABELLED --out report --minutes 60
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
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT',
                        help="pre-trained weights; with --suite one, which fits the suite's encoder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--data', metavar='PATH', help='labelled images of your own: a folder or a table, see below')
    what.add_argument('--suite', metavar='NAME', help='a set of transfers, see below')
    own = parser.add_argument_group('with --data')
    own.add_argument('--fractions', nargs='+', type=float, default=[0.05, 0.25, 1.0], metavar='F',
                     help='of the training labels, in (0, 1] (default: 0.05 0.25 1)')
    own.add_argument('--minutes', type=float, metavar='N',
                     help='in place of --epochs: the length for which everything takes about so long')
    own.add_argument('--split-by', choices=['image', 'folder', 'top-folder'], default='image',
                     help='where the data have no test part: keep the images of a folder on one side')
    own.add_argument('--exclude-leaks', action='store_true',
                     help='leave out test images that have copies among the training or pre-training images')
    own.add_argument('--probes', action='store_true',
                     help='also probe the frozen encoders (k-NN, linear, attentive): some minutes more, classification')
    own.add_argument('--size', type=positive, metavar='PX',
                     help='side of the images, a multiple of the patch size (default: that of pre-training; 4/3 of it '
                     'for detection and segmentation)')
    parser.add_argument('--out', default='work_dirs/transfer', metavar='DIR',
                        help='folder for report.html, results.json and a folder for each run (default: %(default)s)')
    parser.add_argument('--seeds', type=positive, metavar='N', help="runs of each kind (default: the suite's, 1 to 3)")
    parser.add_argument('--starts', nargs='+', choices=['random', 'mae'],
                        help='sides to run (default: both in the demo, mae in the others)')
    parser.add_argument('--epochs', type=positive, nargs='+', metavar='N',
                        help='with --data: length of every run in epochs of all training labels (default: 30, at least '
                        '200 steps); with --suite partial: try each for every number of blocks (paper: 50 100 200)')
    parser.add_argument('--workers', type=positive, metavar='N',
                        help='runs at a time (default: one per core; with a GPU: 1)')
    parser.add_argument('--gpus', type=positive, default=0, metavar='N',
                        help='GPUs of this machine for each run (default: 1)')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of all configs')
    args = parser.parse_args()
    if wrong := find_mistake(args):
        parser.error(wrong)
    return args


def find_mistake(args: argparse.Namespace) -> str | None:
    """What is wrong with the arguments; no torch is needed to see it."""
    for checkpoint in args.checkpoints:
        if '://' not in checkpoint and not is_released(checkpoint) and not Path(checkpoint).exists():
            return f'CHECKPOINT {checkpoint}: no such file'
    for fraction in args.fractions:
        if not 0 < fraction <= 1:
            return f'--fractions {fraction} must be in (0, 1]'
    if args.minutes is not None and not 0 < args.minutes < math.inf:
        return f'--minutes {args.minutes} must be above 0'
    if args.minutes and args.epochs:
        return '--minutes and --epochs both set the length: give one of them'
    if args.data:
        if len(args.epochs or ()) > 1:
            return f'--data takes one number of --epochs, got {len(args.epochs)}'
        for name in ('starts', 'gpus'):
            if getattr(args, name):
                return f'--{name} is for --suite, not for --data'
    elif args.probes:
        return '--probes is for --data; suites have probes of their own'
    elif len(args.checkpoints) > 1:
        return f'--suite takes one checkpoint, got {len(args.checkpoints)}; --data compares several'
    try:
        Path(args.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f'--out {args.out}: cannot create this folder: {error.strerror}'
    return None if os.access(args.out, os.W_OK) else f'--out {args.out}: no permission to write into this folder'


def compare_on_own_data(args: argparse.Namespace, workers: int) -> None:
    """`--data`: recognise, compare, report."""
    from mae_mm.checkpoint.contents import read_checkpoint
    from mae_mm.datasets.labelled import find_labelled
    from mae_mm.transfer.own_data import Length, compare_starts
    from mae_mm.transfer.own_report import write_verdict
    from mae_mm.transfer.probing import probe_checkpoints
    from mae_mm.transfer.seen import describe, draw_pairs, find_seen, leave_out

    for checkpoint in args.checkpoints:  # before many images are read
        read_checkpoint(checkpoint)
    data, out = find_labelled(args.data, args.split_by), Path(args.out)
    print(data, flush=True)
    if args.probes and data.task != 'classification':
        raise ValueError(f'--probes needs one class for each image; these data are for {data.task}: leave it out')
    seen = find_seen(data, args.checkpoints)
    if args.exclude_leaks:
        data = leave_out(data, seen)
    copies = describe(seen, args.exclude_leaks)
    print('\n'.join(f'copies     {line}' for line in copies), flush=True)
    summary = compare_starts(
        data, args.checkpoints, out, args.fractions, args.seeds or 3, Length((args.epochs or [None])[0], args.minutes),
        workers, args.size, args.cfg_options)
    probes = None
    if args.probes:
        probes = probe_checkpoints(
            data, args.checkpoints, out / 'features', seeds=args.seeds or 3, fractions=args.fractions, size=args.size)
    write_verdict(out, summary, copies, draw_pairs(seen, out / 'copies'), probes)
    print(f'\n{(out / "verdict.md").read_text()}\n{out / "report.html"}: the verdict as a page; verdict.json: numbers')
    if summary['failed']:
        names = '\n'.join(f'failed: {name}: {error}' for name, error in summary['failed'].items())
        print(f'{names}\nThe same command repeats these alone.', file=sys.stderr)
        sys.exit(1)


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error

    def run() -> None:
        import torch

        from mae_mm.checkpoint.contents import read_checkpoint
        from mae_mm.transfer.comparison import compare
        from mae_mm.transfer.report import write_report
        from mae_mm.transfer.suites import GROUPS, find_suites

        workers = args.workers or (1 if torch.cuda.is_available() else os.cpu_count())
        if args.data:
            return compare_on_own_data(args, workers)
        checkpoint, = args.checkpoints
        suites = find_suites(args.suite, read_checkpoint(checkpoint), args.epochs or ())
        for name in set(GROUPS.get(args.suite, ())) - set(suites):
            print(f'left out: {name}: there is no recipe for an encoder of this size')
        out, summaries, failed = Path(args.out), {}, {}
        for name, suite in suites.items():
            suite = suite._replace(starts=tuple(args.starts or suite.starts))
            try:
                summaries[name] = compare(
                    suite, checkpoint, out / name, args.seeds, args.cfg_options, workers, args.gpus)
            except (ValueError, OSError) as error:  # no data, say: the other suites may have theirs
                failed[name] = str(error)
                continue
            failed.update({f'{name}/{run}': error for run, error in summaries[name]['failed'].items()})
            print(f'\n{(out / name / "table.md").read_text()}')
        write_report(out / 'report.html', checkpoint, suites, summaries, failed)
        print(f'{out / "report.html"}: tables, curves, pictures, configs; {out / "results.json"}: the figures')
        if failed:
            names = '\n'.join(f'failed: {name}: {error}' for name, error in failed.items())
            print(f'{names}\nRepeat the same command to run these again.', file=sys.stderr)
            sys.exit(1)

    exit_on_user_error(run, again='the same command continues')


if __name__ == '__main__':
    main()
