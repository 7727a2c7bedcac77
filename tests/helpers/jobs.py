"""Stand-ins for trainings, which other processes find here."""

import os
import time
from collections.abc import Callable

from mmengine.config import Config

from mae_mm.transfer.types import Job

__all__ = ['Config', 'Job', 'make', 'make_in_this_process']


def make(job: Job, report: Callable[[float], None]) -> dict:
    """Leave the process id in a file, then do as the config's `fate` says."""
    with open('made.txt', 'a') as file:
        file.write(f'{os.getpid()} ')
    report(0.5)
    if job.cfg.fate == 'fails':
        raise RuntimeError('out of luck')
    if job.cfg.fate == 'dies':
        os._exit(7)
    if job.cfg.fate == 'hangs':
        time.sleep(600)
    return dict(metrics={'map': 50.0})


def make_in_this_process(made: list[str]) -> Callable:
    """In place of `jobs.make_jobs`: no processes, and the names of the jobs are added to `made`."""
    def make_jobs(jobs: dict, make: Callable, workers: int, record: Callable) -> None:
        for run, job in jobs.items():
            made.append(job.name)
            record(run, dict(result=make(job, print)))

    return make_jobs
