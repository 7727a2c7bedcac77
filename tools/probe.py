"""What do frozen encoders know about labelled images? k-NN, linear and attentive probes, in minutes, on a CPU."""

import argparse
import os
from pathlib import Path

from mae_mm.engine.options import positive

EPILOG = """\
probes (--probes, default: all):
  knn              vote of the nearest training images, by mean patch token; nothing is trained
  linear_class     logistic regression on the class token, as in the MAE paper
  linear_mean      … on the mean patch token
  linear_blocks    … on the mean patch tokens of the last four blocks, side by side
  attentive        one learned query that attends to all patch tokens, and a linear layer
  attentive_multi  32 queries, each with a slice of the values (efficient probing, Psomas et al., ICLR 2026)

LABELLED is what --data of tools/transfer.py takes, with one class for each image: class folders (also below train/ and
val/), or a table of paths and labels. Or a classification config, for its training and validation images. CHECKPOINT is
in any format; the first one's encoder with random weights is a column of its own. Images are resized to the size of
pre-training and cropped to it.

Features are computed once for each encoder and kept in --cache; the probes then take seconds to minutes. Each probe
chooses its setting (neighbours, strength, learning rate) on a quarter of the training labels, then uses all of them.

examples:
  python tools/probe.py work_dirs/mae_pretrain/epoch_800.pth --data LABELLED --out probes
  python tools/probe.py epoch_400.pth epoch_800.pth --data LABELLED --probes knn attentive_multi --labels 0.1 1
  python tools/probe.py CHECKPOINT --data configs/demo/classification.py

exit codes: 0 written; 2 a mistake in the command line or the data; 3 stopped by a full disk; 130 Ctrl-C
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoints', nargs='+', metavar='CHECKPOINT', help='pre-trained weights in any format')
    parser.add_argument('--data', required=True, metavar='LABELLED', help='labelled images, see below')
    parser.add_argument('--probes', nargs='+', metavar='NAME', help='which, see below (default: all)')
    parser.add_argument('--seeds', type=positive, default=3, metavar='N', help='of each probe (default: 3)')
    parser.add_argument('--labels', nargs='+', type=float, default=[1.0], metavar='F',
                        help='fractions of the training labels, in (0, 1] (default: 1)')
    parser.add_argument('--out', default='work_dirs/probe', metavar='DIR',
                        help='folder for table.md, results.json and bars.png (default: %(default)s)')
    parser.add_argument('--cache', default='work_dirs/features', metavar='DIR',
                        help='folder of the features; delete it when you like (default: %(default)s)')
    parser.add_argument('--split-by', choices=['image', 'folder', 'top-folder'], default='image',
                        help='where the data have no test part: keep the images of a folder on one side')
    parser.add_argument('--size', type=positive, metavar='PX',
                        help='side of the images, a multiple of the patch size (default: that of pre-training)')
    parser.add_argument('--batch-size', type=positive, default=64, help='images at a time (default: 64)')
    parser.add_argument('--workers', type=int, default=min(8, len(os.sched_getaffinity(0)) - 1),
                        help='processes that load images (default: one fewer than cores, at most 8; here %(default)s)')
    parser.add_argument('--device', help='device to compute on (default: a GPU if there is one)')
    args = parser.parse_args()
    for fraction in args.labels:
        if not 0 < fraction <= 1:
            parser.error(f'--labels {fraction} must be in (0, 1]')
    if args.workers < 0:
        parser.error(f'--workers must be 0 or more, got {args.workers}')
    return args


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.engine.runner import check_device, check_file
    from mae_mm.evaluation.probes import PROBES
    from mae_mm.transfer.probing import find_classes, probe_checkpoints, write_probes

    def run() -> None:
        if unknown := set(args.probes or ()) - set(PROBES):
            raise ValueError(f'--probes {" ".join(sorted(unknown))}: must be one or more of {" ".join(PROBES)}')
        for checkpoint in args.checkpoints:
            check_file(checkpoint, 'CHECKPOINT')
        if args.device:
            check_device(args.device)
        data = find_classes(args.data, args.split_by)
        print(data, flush=True)
        Path(args.out).mkdir(parents=True, exist_ok=True)  # refused before the work, not after it
        summary = probe_checkpoints(
            data, args.checkpoints, Path(args.cache), args.probes or tuple(PROBES), args.seeds, args.labels, args.size,
            args.device, args.batch_size, args.workers)
        print(f'\n{write_probes(Path(args.out), summary)}\n{args.out}/: table.md, results.json, bars.png')

    exit_on_user_error(run, 'the same command continues; features that are complete are kept')


if __name__ == '__main__':
    main()
