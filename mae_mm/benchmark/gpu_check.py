"""Does everything work on this GPU, and how fast: checks that run one by one, each apart from the others.

A worker process runs the checks. One that a CUDA error, a crash or a time limit has spoiled is replaced, so that a
fault in one check is not a fault in the next.
"""

import gc
import importlib
import multiprocessing
import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

PASS, FAIL, SKIP = 'PASS', 'FAIL', 'SKIP'
PACKAGE = 'mae_mm.benchmark'
CHECKS = {  # name: module and function, what it shows
    'doctor': ('gpu_runs:doctor', 'everything that is needed is installed and loads'),
    'sync': ('gpu_steps:no_sync', '20 training steps of the real runner, and none waits for the GPU'),
    'parts': ('gpu_steps:parts', 'every decoder, target and sampler trains'),
    'nan': ('gpu_steps:nan', 'a loss that is not finite leaves the weights alone'),
    'agree': ('gpu_agree:agree', 'the CPU and this device compute the same losses and gradients'),
    'compile': ('gpu_steps:compiling', 'one compilation for each stack of blocks, with and without drop path'),
    'demo': ('gpu_runs:demo', 'pre-training stops on SIGTERM with code 75 and resumes'),
    'ddp': ('gpu_runs:ddp', 'DistributedDataParallel with one process'),
    'fsdp': ('gpu_runs:fsdp', 'FSDP with one process; its checkpoint is complete'),
    'detector': ('gpu_hosts:detector', '10 iterations of Mask R-CNN'),
    'segmentor': ('gpu_hosts:segmentor', '10 iterations of UperNet'),
    'table': ('throughput:table', 'images/s, memory and share of the matmul peak'),
}
RESERVE = 10.0  # seconds that a check needs at least


class SkipCheck(Exception):
    """Why a check does not apply here."""


@dataclass
class Context:
    """What a check may use.

    Attributes:
        device: 'cuda' or 'cpu'.
        small: models and images of a size that a CPU trains in seconds.
        folder: for files; the checks share the demo data there.
        deadline: `time.monotonic` at which the check is ended.
        emit: takes a row of figures, which is kept even if the check ends too late.
    """

    device: str
    small: bool
    folder: Path
    deadline: float = float('inf')
    emit: Callable[[dict], None] = field(default=lambda row: None)

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()


@dataclass
class Outcome:
    """One line of the report."""

    name: str
    status: str
    reason: str
    seconds: float = 0.0
    rows: list[dict] = field(default_factory=list)
    trace: str = ''

    def line(self) -> str:
        """`PASS  sync  12.3 s  what it found`."""
        return f'{self.status}  {self.name:10} {self.seconds:6.1f} s  {self.reason}'


def run_checks(
    names: list[str], device: str, small: bool, folder: Path, minutes: float,
    report: Callable[[Outcome], None] = lambda outcome: None, checks: dict[str, tuple[str, str]] = CHECKS,
) -> list[Outcome]:
    """Run checks in turn.

    Args:
        names: keys of `checks`.
        device, small, folder: see `Context`.
        minutes: for all together; checks that would begin later are skipped, one that lasts longer is ended.
        report: takes each outcome when it is there.
        checks: name -> (`module:function`, what it shows); a module without a dot is of this package.
    """
    end = time.monotonic() + 60 * minutes
    outcomes, worker = [], None
    try:
        for name in names:
            start = time.monotonic()
            if end - start < RESERVE:
                outcome = Outcome(name, SKIP, f'no time left of --minutes {minutes:g}')
            else:
                worker = worker or _Worker(device, small, folder)
                outcome = worker.run(name, checks[name][0], end)
                outcome.seconds = time.monotonic() - start
                worker = None if worker.spoilt else worker
            outcomes.append(outcome)
            report(outcome)
    finally:  # Ctrl-C, too
        if worker:
            worker.end()
    return outcomes


class _Worker:
    """A process that runs checks."""

    def __init__(self, device: str, small: bool, folder: Path) -> None:
        context = multiprocessing.get_context('spawn')
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, device, small, str(folder)))
        self.process.start()
        theirs.close()
        self.spoilt = False

    def run(self, name: str, function: str, end: float) -> Outcome:
        """Run one check, at most until `end` (`time.monotonic`)."""
        rows = []
        try:
            self.connection.send((function, end - time.monotonic()))
            while self.connection.poll(max(end - time.monotonic(), 0)):
                kind, value = self.connection.recv()
                if kind == 'row':
                    rows.append(value)
                    continue
                status, reason, trace, self.spoilt = value
                if self.spoilt:
                    self.end()
                return Outcome(name, status, reason, rows=rows, trace=trace)
            reason = 'ended: the time of --minutes is over'
        except (EOFError, ConnectionError):
            self.process.join(10)
            reason = f'its process ended with code {self.process.exitcode}'
        self.spoilt = True
        self.end()
        return Outcome(name, PASS if rows and reason.startswith('ended') else FAIL, reason, rows=rows)

    def end(self) -> None:
        """End the process and all that it has started: they are one process group."""
        with suppress(OSError):
            self.connection.send(None)
            if not self.spoilt:
                self.process.join(5)
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


def _serve(connection: Connection, device: str, small: bool, folder: str) -> None:
    os.setpgrp()
    import logging
    import warnings

    logging.disable(logging.WARNING)  # initialisation and parameter groups, reported once for each model
    warnings.simplefilter('ignore')  # of the hosts, while they build their models
    while (order := connection.recv()) is not None:
        function, seconds = order
        context = Context(device, small, Path(folder), time.monotonic() + seconds,
                          lambda row: connection.send(('row', row)))
        try:
            module, name = function.split(':')
            module = importlib.import_module(module if '.' in module else f'{PACKAGE}.{module}')
            result = PASS, getattr(module, name)(context), '', False
        except SkipCheck as reason:
            result = SKIP, str(reason), '', False
        except BaseException as error:
            result = FAIL, describe(error), traceback.format_exc(), is_poison(error)
        connection.send(('end', result))
        gc.collect()
        if device == 'cuda' and not result[-1]:
            import torch

            torch.cuda.empty_cache()


def is_poison(error: BaseException) -> bool:
    """Whether the CUDA context is lost, and with it the process. Out of memory is not that."""
    return type(error).__name__ == 'AcceleratorError' or bool(
        re.search(r'CUDA error|CUDNN_STATUS|CUBLAS_STATUS|device-side assert', str(error)))


def describe(error: BaseException) -> str:
    """Type, first line of the message, and the line of this package that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__)
              if 'mae_mm' in frame.filename and frame.filename != __file__]
    place = f' ({Path(frames[-1].filename).name}:{frames[-1].lineno})' if frames else ''
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else ""}'[:300] + place
