"""Training steps beside busy processes: OpenMP threads that spin at barriers take the time of those they wait for."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

import mae_mm
from mae_mm.benchmark.end2end import our_config
from mae_mm.benchmark.step import train_step
from mae_mm.benchmark.timing import Rounds, interleave
from mae_mm.registry import MODELS

# torch's OpenMP reads what `mae_mm` sets when it is loaded.
CONTESTANTS = {
    'default': f'import torch; from {__name__} import serve; serve()',
    'mae_mm': f'from {__name__} import serve; serve()'}

# A busy process ends with the benchmark, however that ends.
BUSY = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def serve(batch: int = 32) -> None:
    """Make one training step of the demo's model for each line of stdin."""
    imgs = torch.randint(0, 256, (batch, 3, 48, 48), dtype=torch.uint8)
    step = train_step(MODELS.build(our_config(1).model), imgs, autocast=True, ours=True, device='cpu')
    for _ in sys.stdin:
        step()
        print('done', flush=True)


def compare_busy(rounds: int | Rounds = 15, neighbours: Sequence[int] = (0, 1, 2)) -> list[dict]:
    """Time steps of two training processes in turn, one without and one with mae_mm's setting.

    Returns:
        A row for each of `neighbours`: `busy`, how many other processes compute, `seconds` of a step (name ->
        `Timing`), and `ratio`, the median without / with the setting.
    """
    env = {key: value for key, value in os.environ.items() if key not in mae_mm.SPINNING}
    rows = []
    with ExitStack() as stack:
        servers = {name: stack.enter_context(_child(code, env)) for name, code in CONTESTANTS.items()}
        steps = {name: lambda server=server: _ask(server) for name, server in servers.items()}
        for busy in neighbours:
            with ExitStack() as others:
                for _ in range(busy):
                    others.enter_context(_child(BUSY, env))
                seconds = interleave(steps, rounds, warmup=3)
            rows.append(dict(
                busy=busy, seconds=seconds, ratio=seconds['default'].median / seconds['mae_mm'].median))
    return rows


@contextmanager
def _child(code: str, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, '-c', code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _ask(server: subprocess.Popen) -> None:
    server.stdin.write('\n')
    server.stdin.flush()
    while (line := server.stdout.readline()) != 'done\n':  # a log may come before it
        if not line:
            raise RuntimeError(f'a training process ended with code {server.wait()}; its error is above')
