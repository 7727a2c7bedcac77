"""Trainings, each in a process of its own, under one progress bar; complete ones are not repeated."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from threading import Thread
from typing import TypeVar

import torch
from tqdm import tqdm

from mae_mm.transfer.types import Job

R = TypeVar('R')  # what names a job: a run of a suite, a stage of an ablation
Make = Callable[[Job, Callable[[float], None]], dict]  # makes a job, reports the share that is done, returns the result
# Imported once for all runs: 5 s of CPU each. The server that forks runs has no threads and touches no GPU.
PRELOADED = ['mae_mm.transfer.runs', 'mmpretrain.models']
BAR = '{desc:<22}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}'


def complete(jobs: dict[R, Job], make: Make, workers: int) -> tuple[dict[R, dict], dict[R, str]]:
    """Make the jobs whose folder has no result yet, `workers` at a time; results, in their order, and errors."""
    keys = {run: hashlib.sha256(f'{job.cfg.to_dict()}{job.identity}'.encode()).hexdigest()
            for run, job in jobs.items()}
    results = {run: read_result(job.folder, keys[run]) for run, job in jobs.items()}
    missing, errors = {run: job for run, job in jobs.items() if results[run] is None}, {}
    for run, job in missing.items():
        claim(job.folder, keys[run])

    def record(run: R, message: dict) -> None:
        if 'error' in message:
            errors[run] = message['error']
            return
        results[run] = message['result']
        (jobs[run].folder / 'result.json').write_text(json.dumps(dict(key=keys[run], **results[run])))

    make_jobs(missing, make, workers, record)
    return {run: result for run, result in results.items() if result}, errors


def make_jobs(jobs: dict[R, Job], make: Make, workers: int, record: Callable[[R, dict], None]) -> None:
    """Make jobs in fresh processes; `record` is called with each job and its dict(result=…) or dict(error=…)."""
    if not jobs:
        return
    context, waiting, running, done = get_context('forkserver'), list(jobs), {}, dict.fromkeys(jobs, 0.0)
    context.set_forkserver_preload(PRELOADED)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes: the server ignores it,
    ensure_running()
    signal.signal(signal.SIGINT, before)  # and this one ends the runs
    threads = 1 if workers > 1 else torch.get_num_threads()
    total = sum(job.cost for job in jobs.values())
    with tqdm(total=total, bar_format=BAR, desc=f'{len(jobs)} runs', smoothing=0, file=sys.stderr,
              disable=None) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < workers:
                    run = waiting.pop(0)
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=work, args=(make, jobs[run], sender, threads))
                    process.start()
                    sender.close()  # so that the end of the process is the end of the pipe
                    running[receiver] = run, process
                for receiver in wait(running, 1):
                    run, process = running[receiver]
                    try:
                        message = receiver.recv()
                    except EOFError:  # it died without a message
                        process.join()
                        message = dict(error=f'its process ended with exit code {process.exitcode}')
                    if isinstance(message, float):
                        done[run] = message
                        continue
                    process.join()
                    del running[receiver]
                    done[run] = 1.0
                    record(run, message)
                    bar.write(f'{jobs[run].name:<26} {outcome(message, jobs[run])}', file=sys.stderr)
                bar.n = sum(job.cost * done[run] for run, job in jobs.items())
                bar.refresh()
        except BaseException:  # Ctrl-C, for example; unfinished jobs are made again in any case
            for _, process in running.values():
                process.kill()
            raise


def work(make: Make, job: Job, sender: Connection, threads: int) -> None:
    """Make a job in this process, send how far it is and how it ends; ends with the process that started this one."""
    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)  # a signal would be taken as a request to end the training in good order

    signal.signal(signal.SIGINT, signal.default_int_handler)  # inherited from the server: ignored
    Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        message = dict(result=make(job, sender.send))
    except BaseException as error:  # SystemExit, too: a training that stops itself has no result
        message = dict(error=f'{type(error).__name__}: {error}')
    with suppress(BrokenPipeError):  # nobody listens any more: the other process has ended
        sender.send(message)


def outcome(message: dict, job: Job) -> str:
    """'57.3 top-1', or why there is no result."""
    if 'error' in message:
        return f'failed: {message["error"]}'
    values = message['result']['metrics']
    return ', '.join(f'{values[name]:.2f} {metric.title}' for name, metric in job.metrics.items())


def claim(folder: Path, key: str) -> None:
    """Mark a folder as that of a job; checkpoints of another job are refused, for they would be resumed."""
    mark = folder / 'key.txt'
    if (folder / 'last_checkpoint').exists() and (not mark.exists() or mark.read_text() != key):
        raise ValueError(
            f'{folder} holds checkpoints of a run of another config or checkpoint: choose another --out, or remove it')
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text(key)


def read_result(folder: Path, key: str) -> dict | None:
    """The result of a complete job with this key."""
    try:
        result = json.loads((folder / 'result.json').read_text())
    except (OSError, ValueError):
        return None
    return result if result.pop('key', None) == key else None
