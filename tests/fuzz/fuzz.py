"""Feed damaged files to the readers, which may only raise their documented errors.

    python tests/fuzz/fuzz.py all --minutes 10            # each reader for 10 minutes; results into docs/reliability.md
    python tests/fuzz/fuzz.py image --minutes 1 --no-docs
    python tests/fuzz/fuzz.py image --engine atheris      # coverage-guided, if `pip install atheris` works

Each reader runs in a process of its own, which keeps its present input in a file: a crash of the interpreter is found
as well, and can be repeated with --repeat FILE.
"""

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for helpers



def mutations(samples: list[bytes]):
    """Hypothesis strategy: a sample with bytes changed, cut, doubled and spliced, or arbitrary bytes."""
    from hypothesis import strategies as st

    change = st.tuples(st.sampled_from(['set', 'cut', 'insert', 'double', 'number']),
                       st.floats(0, 1), st.binary(min_size=1, max_size=8))

    def apply(sample: bytes, changes: list) -> bytes:
        data = bytearray(sample)
        for kind, where, new in changes:
            place = int(where * len(data))
            if kind == 'set':
                data[place:place + len(new)] = new
            elif kind == 'cut':
                data = data[:place]
            elif kind == 'insert':
                data[place:place] = new
            elif kind == 'double':
                data[place:place] = data[place:place + 64 * len(new)]
            else:  # a length or size that is far too large
                data[place:place + 4] = b'\xff\xff\xff\x7f'
        return bytes(data)

    changed = st.builds(apply, st.sampled_from(samples), st.lists(change, min_size=1, max_size=6))
    return st.one_of(changed, changed, changed, st.binary(max_size=256))


def fuzz(reader: str, seconds: float, present: Path, at_least: int = 30) -> Counter:
    """Feed one reader for some time and with a minimum of inputs; returns how often each outcome occurred.

    Raises:
        Exception: whatever came out that is not documented.
    """
    import targets
    from hypothesis import HealthCheck, given, seed, settings

    samples, read = targets.TARGETS[reader]()
    outcomes, end, batch = Counter(), time.monotonic() + seconds, 0

    def unfinished() -> bool:
        return time.monotonic() < end or outcomes.total() < at_least

    while unfinished():
        @seed(time.time_ns() + batch)
        @settings(max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(mutations(samples))
        def one(data: bytes) -> None:
            if unfinished():
                present.write_bytes(data)
                outcomes[read(data)] += 1
        one()
        batch += 1
    return outcomes


def fuzz_by_coverage(reader: str, seconds: float) -> None:
    """The same with atheris, until the time is over or an undocumented error occurs."""
    import atheris
    with atheris.instrument_imports(include=['mae_mm', 'PIL']):
        import targets
    samples, read = targets.TARGETS[reader]()
    with tempfile.TemporaryDirectory() as corpus:
        for i, sample in enumerate(samples):
            (Path(corpus) / str(i)).write_bytes(sample)
        atheris.Setup([sys.argv[0], corpus, f'-max_total_time={int(seconds)}', '-rss_limit_mb=8192'],
                      lambda data: read(data) and None)
        atheris.Fuzz()


def main() -> None:
    readers = ('checkpoint', 'annotations', 'image', 'geotiff', 'tiff_stack', 'npy', 'dicom', 'png_16')
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('reader', choices=[*readers, 'all'])
    parser.add_argument('--minutes', type=float, default=10, help='for each reader (default: 10)')
    parser.add_argument('--engine', choices=['hypothesis', 'atheris'], default='hypothesis')
    parser.add_argument('--repeat', metavar='FILE', help='read this input once')
    parser.add_argument('--no-docs', action='store_true', help='leave docs/reliability.md as it is')
    parser.add_argument('--child', help=argparse.SUPPRESS)
    args = parser.parse_args()
    logging.disable()  # readers report every mutilated input
    warnings.simplefilter('ignore')
    if args.repeat:
        import targets
        print(targets.TARGETS[args.reader]()[1](Path(args.repeat).read_bytes()))
    elif args.engine == 'atheris':
        fuzz_by_coverage(args.reader, 60 * args.minutes)
    elif args.child:
        outcomes = fuzz(args.reader, 60 * args.minutes, Path(args.child))
        print(json.dumps(outcomes))
    else:
        lines, failed = [], False
        for reader in readers if args.reader == 'all' else [args.reader]:
            line, bad = run_child(reader, args.minutes)
            print(line, flush=True)
            lines.append(line)
            failed |= bad
        if not args.no_docs:
            from helpers.measured import write_block
            write_block('fuzz', lines)
        sys.exit(failed)


def run_child(reader: str, minutes: float) -> tuple[str, bool]:
    """Fuzz a reader in a process; returns a line of results, and whether an undocumented error occurred."""
    present = Path(tempfile.gettempdir()) / f'mae_mm_fuzz_{reader}'
    log = present.with_suffix('.log')  # libjpeg and libpng complain about every input
    with log.open('w') as errors:
        child = subprocess.run(
            [sys.executable, '-X', 'faulthandler', __file__, reader, '--minutes', str(minutes), '--child',
             str(present)], stdout=subprocess.PIPE, stderr=errors, text=True)
    if child.returncode:
        return f'- {reader}: FAILED with code {child.returncode}; input kept in {present}, its traceback in {log}', True
    outcomes = json.loads(child.stdout.strip().splitlines()[-1])
    total = sum(outcomes.values())
    parts = ', '.join(f'{count:,} {name}' for name, count in sorted(outcomes.items(), key=lambda item: -item[1]))
    return f'- {reader}: {minutes:g} min, {total:,} inputs, no crash ({parts})', False


if __name__ == '__main__':
    main()
