"""Has it learned? A curve while pre-training runs, and a summary in a box when it ends."""

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from mae_mm.engine.hooks.scalars import RuntimeInfoHook
from mae_mm.registry import HOOKS

SEE_IT = 'python tools/visualize.py {config} {checkpoint} {images} --out panel.png'


@HOOKS.register_module()
class SummaryHook(Hook):
    """Keep losses in `curve.jsonl`, draw them in `curve.png`, and end training with a short summary.

    A line of `curve.jsonl` is one point: `iter`, and either `loss` (mean since the last reading of
    `mae_mm.RuntimeInfoHook`, or over one interval of LoggerHook with mmengine's RuntimeInfoHook) or the
    `recon/*` numbers of one validation (`mae_mm.ReconstructionMetric`). A resumed run continues the lines up to its
    checkpoint. Speed and time are IterTimerHook's: of training iterations and their data, not of validation. Numbers
    are read from the message hub, where they are on the host already, so no iteration waits for the device.

    Args:
        next_commands: suggested commands, shown at the end; `{config}`, `{checkpoint}`, `{images}` (the folder of a
            held-out image) and `{work_dir}` are filled in.
    """

    def __init__(self, next_commands: Sequence[str] = (SEE_IT, )) -> None:
        self.next_commands = next_commands
        self.points: list[dict[str, float]] = []
        self.images_per_iter = 0

    def before_train(self, runner: Runner) -> None:
        """Start the points, or continue those of the run that is resumed."""
        self.interval = next((hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)), 10)
        self.meter = next((hook for hook in runner.hooks if isinstance(hook, RuntimeInfoHook)), None)
        self.start_iter = runner.iter
        self.file = Path(runner.work_dir) / 'curve.jsonl'
        self.points = [point for point in read_points(self.file) if point['iter'] <= runner.iter]
        if is_main_process():
            self.file.write_text(''.join(json.dumps(point) + '\n' for point in self.points))

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None,
    ) -> None:
        """Keep the loss once in an interval."""
        self.images_per_iter = max(self.images_per_iter, count_views(data_batch['inputs']))
        if self.meter is not None:
            if self.meter.fresh:
                self._keep_loss(runner, runner.iter + 1, 1)
        elif self.every_n_train_iters(runner, self.interval):
            self._keep_loss(runner, runner.iter + 1, self.interval)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Keep the held-out numbers of a validation inside training, and redraw the curve."""
        recon = {name: float(value) for name, value in (metrics or {}).items() if name.startswith('recon/')}
        if recon and hasattr(self, 'file'):
            # A resumed run repeats the validation of its checkpoint's epoch, in case it was cut off.
            if not any('recon/loss' in point and point['iter'] == runner.iter for point in self.points):
                self._keep(dict(iter=runner.iter, **recon))
            self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        """Draw the curve, print the summary."""
        rest = runner.iter % self.interval
        if self.meter is None and rest and runner.iter > self.start_iter:
            self._keep_loss(runner, runner.iter, rest)
        self._draw(runner)
        if is_main_process():
            runner.logger.info('\n' + box(self._summary(runner)))

    def _keep_loss(self, runner: Runner, iteration: int, window: int) -> None:
        self._keep(dict(iter=iteration, loss=float(runner.message_hub.get_scalar('train/loss').mean(window))))

    def _keep(self, point: dict[str, float]) -> None:
        self.points.append(point)
        if is_main_process():
            with self.file.open('a') as file:
                file.write(json.dumps(point) + '\n')

    def _draw(self, runner: Runner) -> None:
        if is_main_process():
            by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
            unit = ('epoch', len(runner.train_dataloader)) if by_epoch else ('iteration', 1)
            draw_curve(self.points, Path(runner.work_dir) / 'curve.png', *unit)

    def _summary(self, runner: Runner) -> list[str]:
        work_dir = Path(runner.work_dir)
        last = work_dir / 'last_checkpoint'
        files = dict(
            checkpoint=Path(last.read_text().strip()) if last.exists() else None, curve=work_dir / 'curve.png',
            points=self.file, panel=work_dir / 'panel.png')
        files = {name: _short(path) for name, path in files.items() if path and path.exists()}
        fields = dict(
            config=_short(_dumped_config(runner)), checkpoint=files.get('checkpoint', 'CHECKPOINT'),
            images=_held_out_folder(runner), work_dir=_short(work_dir))
        return [
            self._effort(runner), '', *verdict(self.points), '',
            *(f'{name:<12}{path}' for name, path in files.items()), '',
            'next:', *(f'  {command.format(**fields)}' for command in self.next_commands)]

    def _effort(self, runner: Runner) -> str:
        """What was done, and how fast."""
        done = f'{runner.iter:,} iterations'
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            done = f'{runner.epoch:,} epochs ({done})'
        if 'train/time' not in runner.message_hub.log_scalars:  # no IterTimerHook
            return f'Pre-trained {done}.'
        seconds = runner.message_hub.get_scalar('train/time').data[0]
        total = runner.message_hub.get_info('train_seconds', seconds.sum())
        done += f' in {timedelta(seconds=round(total))} of training'
        if runner.iter > self.start_iter:
            times = runner.iter - self.start_iter
            if self.meter is not None:  # a time for each point, not for each iteration
                times = sum('loss' in point and point['iter'] > self.start_iter for point in self.points)
            rate = self.images_per_iter * get_world_size() / np.median(seconds[-times:])
            done += f', {rate:,.0f} images/s'
        return f'Pre-trained {done}.'


def count_views(inputs: Tensor | Sequence[Tensor]) -> int:
    """Number of images in a batch: (N, C, H, W), a list of N, or (N, k, C, H, W) with k views of each."""
    return inputs.shape[:-3].numel() if isinstance(inputs, Tensor) else len(inputs)


def _dumped_config(runner: Runner) -> Path:
    """The config with all overrides of the command line, as Runner wrote it into the work folder."""
    filename = Path(runner.cfg.filename or 'CONFIG')
    dumped = Path(runner.work_dir) / filename.name
    return dumped if dumped.exists() else filename


def read_points(file: Path) -> list[dict[str, float]]:
    """Lines of a `curve.jsonl`; a last line that a killed run left unfinished is dropped."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith('}')]


def verdict(points: Sequence[dict[str, float]]) -> list[str]:
    """A few lines: does the last held-out loss beat the baselines that need no learning?"""
    held_out = [point for point in points if 'recon/loss' in point]
    if not held_out:
        losses = [point['loss'] for point in points if 'loss' in point]
        return [
            f'Training loss {losses[-1]:.4f}.' if losses else 'No iteration was run.',
            'No validation was run, so there are no held-out images to judge it by.']
    last = held_out[-1]
    loss, margin = last['recon/loss'], last['recon/margin']
    baselines = {'the patch mean': last['recon/patch_mean'], 'interpolation': last['recon/interpolation']}
    if margin > 0:
        answer = f'The model beats both baselines, the better one by {margin:.1%}.'
    else:
        unbeaten = [name for name, value in baselines.items() if not loss < value]
        answer = f'The model does not beat {" and ".join(unbeaten)} yet, margin {margin:.1%}: train on.'
    return [
        'Masked loss on held-out images',
        f'  {"this model":<16}{loss:.4f}',
        *(f'  {name:<16}{value:.4f}   needs no learning' for name, value in baselines.items()),
        answer]


def box(lines: Sequence[str]) -> str:
    """Frame lines of text, in ASCII so that every terminal shows it."""
    width = max(map(len, lines))
    edge = f'+{"-" * (width + 2)}+'
    return '\n'.join([edge, *(f'| {line:<{width}} |' for line in lines), edge])


def draw_curve(points: Sequence[dict[str, float]], path: Path, unit: str, iters_per_unit: int) -> None:
    """Draw training loss, held-out loss and both baselines over epochs or iterations, as a PNG.

    Args:
        points: as in `curve.jsonl`.
        unit: name of the horizontal axis.
        iters_per_unit: iterations in one of it.
    """
    axes = (figure := Figure(figsize=(8, 5))).add_subplot()
    for name, label, style in (
            ('loss', 'training', dict(color='tab:blue', alpha=0.6)),
            ('recon/loss', 'held-out', dict(color='tab:orange', marker='o', markersize=4))):
        xy = [(point['iter'] / iters_per_unit, point[name]) for point in points if name in point]
        if xy:
            axes.plot(*zip(*xy, strict=True), label=f'{label}: {xy[-1][1]:.4f}', **style)
    held_out = [point for point in points if 'recon/loss' in point]
    for name, label, line in (
            ('recon/patch_mean', 'the patch mean', '--'), ('recon/interpolation', 'interpolation', ':')):
        if held_out:
            level = held_out[-1][name]
            axes.axhline(level, label=f'{label}: {level:.4f}', color='0.4', linestyle=line)
    axes.set(xlabel=unit, ylabel='masked loss', xlim=(0, None))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    figure.savefig(path, dpi=120)


def _held_out_folder(runner: Runner) -> str:
    """Folder of the first validation image, for the suggested commands."""
    dataset = getattr(getattr(runner.val_loop, 'dataloader', None), 'dataset', None)
    if not hasattr(dataset, 'get_data_info'):
        return 'IMAGES'
    return _short(Path(dataset.get_data_info(0)['img_path']).parent)


def _short(path: Path) -> str:
    """Relative to the current folder, if it lies below."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
