"""What comparisons and ablations consist of."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

STARTS = ('random', 'mae')
RANDOM = 'random'  # the name of random weights among checkpoints


class Metric(NamedTuple):
    """A column of results."""

    title: str
    factor: float = 1.0  # from the evaluator's value to percent


class Protocol(NamedTuple):
    """One way to use a checkpoint."""

    title: str
    random: str | None  # config of the run from random weights, if there is one
    mae: str  # config of the run from the checkpoint
    options: dict = {}  # of `--cfg-options`, for both
    cost: float = 1.0  # of a whole run, relative to the other protocols
    measure: Callable[[Config, str | None], dict[str, float]] | None = None  # instead of training; gives the metrics
    published: dict[str, float] = {}  # published results from MAE, in percent, by metric
    chans: int | None = None  # of the checkpoints that it is for
    at: float | None = None  # its place on the axis of the suite's plot


class Suite(NamedTuple):
    """Protocols that share a task and its metrics."""

    task: str
    protocols: dict[str, Protocol]
    metrics: dict[str, Metric]  # by the evaluator's names
    note: str = ''  # a sentence under the table
    seeds: int = 3
    starts: tuple[str, ...] = STARTS
    save: bool = False  # long runs: write checkpoints and resume from them
    axis: str = ''  # label of a plot of the first metric, over the places of the protocols


def name_starts(checkpoints: Sequence[str]) -> dict[str, str | None]:
    """Random weights and every checkpoint under a name of its own: the file's, with its folder where two are equal."""
    stems = [Path(path).stem for path in checkpoints]
    names = [stem if stems.count(stem) == 1 else f'{Path(path).parent.name}_{stem}'
             for path, stem in zip(checkpoints, stems, strict=True)]
    if len(set(names)) < len(names) or RANDOM in names:
        raise ValueError(f'checkpoints need names of their own, got {", ".join(checkpoints)}; rename or link them')
    return {RANDOM: None, **dict(zip(names, checkpoints, strict=True))}


class Run(NamedTuple):
    """One training of a suite."""

    protocol: str
    start: str  # of STARTS
    seed: int

    @property
    def name(self) -> str:
        return f'{self.protocol}_{self.start}_seed{self.seed}'


class Job(NamedTuple):
    """What a process needs to make one training."""

    name: str
    cfg: Config  # its `work_dir` also gets log.txt and result.json
    metrics: dict[str, Metric]
    pretrained: str | None = None  # a checkpoint, or the work folder of a pre-training, for its newest checkpoint
    identity: str = ''  # what the result depends on besides the config: a hash of the checkpoint
    cost: float = 1.0  # relative to other jobs
    measure: Callable[[Config, str | None], dict[str, float]] | None = None  # instead of training
    draw: bool = False  # draw predictions and keep the weights, as final.pth
    gpus: int = 0

    @property
    def folder(self) -> Path:
        return Path(self.cfg.work_dir)
