"""Check this project on the first GPU: does everything work, and how fast is it. At most 8 minutes, no network."""

import argparse
import json
import os
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

EXAMPLES = """examples:
  python tools/gpu_check.py                             # all checks, 8 minutes
  python tools/gpu_check.py --only sync agree table     # some of them
  python tools/gpu_check.py --device cpu --small        # the same script on a CPU, 2 minutes, nothing is measured

One line for each check, then the tables to paste. Exit code 1 if a check failed."""


def parse_args() -> argparse.Namespace:
    from mae_mm.benchmark.gpu_check import CHECKS

    listed = '\n'.join(f'  {name:10} {what}' for name, (_, what) in CHECKS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f'checks:\n{listed}\n\n{EXAMPLES}',
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=['cuda', 'cpu'], default='cuda',
                        help='device to check (default: %(default)s)')
    parser.add_argument('--small', action='store_true', help='tiny models and images: check that it runs, not how fast')
    parser.add_argument('--only', nargs='+', choices=CHECKS, metavar='NAME', help='checks to run (default: all)')
    parser.add_argument('--skip', nargs='+', choices=CHECKS, metavar='NAME', default=[], help='checks to leave out')
    parser.add_argument('--minutes', type=float, default=8.0, help='time limit for all checks (default: %(default)g)')
    parser.add_argument('--json', metavar='FILE', help='write all figures to FILE after each check')
    parser.add_argument('--work-dir', metavar='FOLDER', help='folder for demo data and runs (default: a temporary one)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and end the worker
    os.environ.setdefault('TQDM_DISABLE', '1')  # one line for each check, from all processes
    from mae_mm.benchmark.gpu_check import CHECKS, FAIL, run_checks

    if args.device == 'cuda':
        import torch

        if not torch.cuda.is_available():
            sys.exit('gpu_check: torch sees no GPU here (make doctor); --device cpu --small needs none')
    from mae_mm.benchmark.throughput import markdown
    from mae_mm.transfer.tables import environment, markdown_table

    names = [name for name in args.only or CHECKS if name not in args.skip]
    done = []

    def report(outcome) -> None:
        done.append(outcome)
        print(outcome.line(), flush=True)
        if args.json:
            Path(args.json).write_text(json.dumps(
                dict(environment=environment(), outcomes=[asdict(one) for one in done]), indent=2))

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.work_dir or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        outcomes = run_checks(names, args.device, args.small, folder, args.minutes, report)
    print('\n' + markdown_table(
        ['check', 'result', 's', 'what was found'],
        [[one.name, one.status, f'{one.seconds:.0f}', one.reason.replace('|', '/')] for one in outcomes]))
    for one in outcomes:
        if one.name == 'table' and one.rows:
            print('\n' + markdown(one.rows))
    print(f'\n{environment()}')
    failed = [one.name for one in outcomes if one.status == FAIL]
    sys.exit(f'\nFAILED: {" ".join(failed)}' if failed else 0)


if __name__ == '__main__':
    main()
