"""A demo pre-training that is killed at random, again and again, against one that is not.

    python tests/soak.py                                  # about 2 hours on 2 cores: 45 min whole, 60 min with kills
    python tests/soak.py --epochs 3 --kills 2 --gap 15 25 --no-docs

Each time the whole process group gets SIGKILL at a random moment (training, validation, checkpoint writing, start-up),
and `--resume auto` continues. At the end weights, optimizer state, schedules and every logged loss must be those of the
whole run, bit for bit. Resident memory and open files of the training process are sampled every second. The figures go
into docs/reliability.md. Exit code 1 if anything differs or grows.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from helpers import ROOT

CONFIG = 'configs/demo/mae_pretrain.py'
WARM_UP = 0.25  # of a run, after which memory and files must stay
GROWTH = 0.05  # of resident memory, that counts as flat


class Sample(NamedTuple):
    """One look at a process."""

    seconds: float
    rss: float  # MB
    files: int


def start(work: Path, options: list[str], log: Path) -> subprocess.Popen:
    """Start or resume the training, in a process group of its own."""
    command = [sys.executable, 'tools/train.py', CONFIG, '--work-dir', str(work), '--resume', 'auto', '--cfg-options',
               *options]
    with open(log, 'a') as output:
        return subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)


def look(process: subprocess.Popen, since: float) -> Sample | None:
    """Memory and open files of a process; None once it has gone."""
    try:
        pages = int(Path(f'/proc/{process.pid}/statm').read_text().split()[1])
        files = len(os.listdir(f'/proc/{process.pid}/fd'))
        return Sample(time.monotonic() - since, pages * os.sysconf('SC_PAGE_SIZE') / 1e6, files)
    except (OSError, IndexError):
        return None


def watch(process: subprocess.Popen, until: float) -> list[Sample]:
    """Sample a process every second until it ends or a time has come."""
    begin, samples = time.monotonic(), []
    while process.poll() is None and time.monotonic() < until:
        samples.append(look(process, begin))
        time.sleep(min(1, max(0, until - time.monotonic())))
    return [sample for sample in samples if sample]


def doing(work: Path, log: Path, before: int) -> str:
    """What the process seems to be at."""
    if list(work.glob('*.partial')):
        return 'writing a checkpoint'
    lines = log.read_text(errors='replace')[before:]
    last = max(('  loss ', 'validation:'), key=lines.rfind)
    if lines.rfind(last) < 0:
        return 'starting'
    return 'training' if last == '  loss ' else 'after a validation'


def run_with_kills(work: Path, options: list[str], log: Path, kills: int, gap: tuple[float, float]) -> dict:
    """Train to the end; kill at least so many times on the way, if the training lasts.

    Raises:
        RuntimeError: if a process ends with another code than 0.
    """
    rng, moments, lives, begin = random.Random(0), Counter(), [], time.monotonic()
    while True:
        before = log.stat().st_size if log.exists() else 0
        process = start(work, options, log)
        until = time.monotonic() + rng.uniform(*gap)
        lives.append(watch(process, until if sum(moments.values()) < kills else float('inf')))
        if process.poll() is None:
            moments[doing(work, log, before)] += 1
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        elif process.returncode:
            raise RuntimeError(f'the training ended with code {process.returncode}; see {log}')
        else:
            return dict(kills=sum(moments.values()), moments=moments, lives=lives, seconds=time.monotonic() - begin)


def growth(samples: list[Sample]) -> tuple[float, int]:
    """Relative growth of memory, and more open files, from the first to the last quarter after the warm-up."""
    steady = [s for s in samples if s.seconds > WARM_UP * samples[-1].seconds]
    quarter = max(1, len(steady) // 4)
    first, last = steady[:quarter], steady[-quarter:]
    memory = [float(np.median([s.rss for s in part])) for part in (first, last)]
    files = [int(np.median([s.files for s in part])) for part in (first, last)]  # a validation opens some for a moment
    return memory[1] / memory[0] - 1, files[1] - files[0]


def compare(whole: Path, killed: Path, epochs: int) -> list[str]:
    """Names of what differs at the end."""
    from helpers.reliability import _flatten, different, logged

    from mae_mm.engine.resume import read_training_state
    states = []
    for work in (whole, killed):
        saved = read_training_state(work / f'epoch_{epochs}.pth')
        states.append({name: value for part in ('state_dict', 'optimizer', 'param_schedulers')
                       for name, value in _flatten(part, saved[part]).items()})
    logs = [logged(work) for work in (whole, killed)]
    return different(*states) + [str(key) for key in logs[0].keys() | logs[1].keys()
                                 if logs[0].get(key) != logs[1].get(key)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--epochs', type=int, default=560, help='of the demo recipe (default: 560, 40 minutes)')
    parser.add_argument('--kills', type=int, default=32, help='(default: 32)')
    parser.add_argument('--gap', type=float, nargs=2, default=(30, 150), help='seconds between kills (default: 30 150)')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs' / 'soak')
    parser.add_argument('--cfg-options', nargs='*', default=[], help='further options of both runs')
    parser.add_argument('--no-docs', action='store_true', help='leave docs/reliability.md as it is')
    args = parser.parse_args()
    shutil.rmtree(args.work_dir, ignore_errors=True)
    args.work_dir.mkdir(parents=True)
    options = [f'train_cfg.max_epochs={args.epochs}', 'default_hooks.checkpoint.interval=2', 'train_cfg.val_interval=4',
               *args.cfg_options]
    whole, killed = args.work_dir / 'whole', args.work_dir / 'killed'
    reference = run_with_kills(whole, options, args.work_dir / 'whole.log', 0, (0, 0))
    result = run_with_kills(killed, options, args.work_dir / 'killed.log', args.kills, tuple(args.gap))
    differences = compare(whole, killed, args.epochs)
    memory, files = growth(reference['lives'][0])
    peaks = [max(s.rss for s in life) for life in result['lives'] if life]
    most = [max(s.files for s in life) for life in result['lives'] if life]
    moments = ', '.join(f'{count} {name}' for name, count in result['moments'].most_common())
    lines = [
        f'- {args.epochs} epochs of `{CONFIG}`; whole: {reference["seconds"] / 60:.1f} min; with {result["kills"]} '
        f'SIGKILLs: {result["seconds"] / 60:.1f} min. Killed while: {moments}.',
        f'- Different from the whole run at the end: {", ".join(differences[:5]) if differences else "nothing"} '
        '(weights, optimizer state, schedules, logged losses and rates; bit for bit).',
        f'- Whole run, after warm-up: resident memory {memory:+.1%}, open files {files:+d}. Process lifetimes '
        f'between kills: {np.median(peaks):.0f} MB at most in the median, {max(peaks):.0f} MB in any; '
        f'{max(most)} open files at most.']
    print('\n'.join(lines))
    if not args.no_docs:
        from helpers.measured import write_block
        write_block('soak', lines)
    sys.exit(bool(differences) or memory > GROWTH or files > 0 or result['kills'] < args.kills)


if __name__ == '__main__':
    main()
