"""Has it learned? A curve while pre-training runs, and a summary in a box when it ends."""

import json
import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mae_mm.engine.advice import advise, start_of, what_to_try
from mae_mm.engine.hooks.scalars import is_due
from mae_mm.paths import as_installed
from mae_mm.registry import HOOKS

NEXT = (
    'python tools/visualize.py {checkpoint} {images} --what pca attention neighbours --out page.html',
    'python tools/transfer.py {checkpoint} --data LABELLED --out report')  # what it is worth, on labelled images
BASELINES = {'recon/patch_mean': 'the patch mean', 'recon/interpolation': 'interpolation'}


@HOOKS.register_module()
class SummaryHook(Hook):
    """Keep losses in `curve.jsonl`, draw them in `curve.png`, and end training with a short summary.

    A line of `curve.jsonl` is one point: `iter`, and either `loss` (as logged: with `mae_mm.RuntimeInfoHook` the mean
    since the last point) or the `recon/*` numbers of one validation (`mae_mm.ReconstructionMetric`). A resumed run
    continues the lines up to its checkpoint.

    Args:
        next_commands: suggested commands, shown at the end; `{config}`, `{checkpoint}`, `{images}` (the folder of a
            held-out image) and `{work_dir}` are filled in.
    """

    def __init__(self, next_commands: Sequence[str] = NEXT) -> None:
        self.next_commands = next_commands
        self.images_per_iter = 0

    def before_train(self, runner: Runner) -> None:
        self.file = Path(runner.work_dir) / 'curve.jsonl'
        self.points = [point for point in read_points(self.file) if point['iter'] <= runner.iter]
        self.start = start_of(runner)
        for line in () if runner.iter else advise(runner):
            runner.logger.info(f'advice: {line}')
        if is_main_process():
            self.file.write_text(''.join(json.dumps(point) + '\n' for point in self.points))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        inputs = data_batch['inputs']  # (N, C, H, W), a list of N, or (N, k, C, H, W) with k views of each image
        views = len(inputs) if isinstance(inputs, list) else inputs.shape[:-3].numel()
        self.images_per_iter = max(self.images_per_iter, views)
        if is_due(self, runner, batch_idx):
            self._keep(dict(iter=runner.iter + 1, loss=float(runner.message_hub.get_scalar('train/loss').current())))

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        recon = {name: float(value) for name, value in (metrics or {}).items() if name.startswith('recon/')}
        if recon and hasattr(self, 'file'):  # inside a training
            # A resumed run repeats the validation of its checkpoint's epoch, in case it was cut off.
            if not any('recon/loss' in point and point['iter'] == runner.iter for point in self.points):
                self._keep(dict(iter=runner.iter, **recon))
            self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        self._draw(runner)
        if is_main_process():
            lines, commands = ([line.replace(f'{Path.cwd()}/', '') for line in part] for part in self._summary(runner))
            runner.logger.info('\n'.join(['', box(lines), 'next:', *commands]))

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

    def _summary(self, runner: Runner) -> tuple[list[str], list[str]]:
        """Lines for the box, and commands, which may be too long for it."""
        work_dir, config = Path(runner.work_dir), Path(runner.cfg.filename or 'CONFIG')
        dumped = work_dir / config.name  # with the options of the command line
        last = work_dir / 'last_checkpoint'
        files = dict(
            checkpoint=Path(last.read_text().strip()) if last.exists() else work_dir / 'CHECKPOINT',
            curve=work_dir / 'curve.png', points=self.file, panel=work_dir / 'panel.png')
        dataset = getattr(getattr(runner.val_loop, 'dataloader', None), 'dataset', None)
        fields = dict(
            config=dumped if dumped.exists() else config, checkpoint=files['checkpoint'], work_dir=work_dir)
        fields = {name: shlex.quote(str(path)) for name, path in fields.items()}
        fields['images'] = ' '.join(shlex.quote(str(path)) for path in held_out(dataset)) or 'IMAGES'
        return [
            self._effort(runner), '', *verdict(self.points), *self._advice(runner), '',
            *(f'{name:<12}{path}' for name, path in files.items() if path.exists())], [
            f'  {as_installed(command).format(**fields)}' for command in self.next_commands]

    def _advice(self, runner: Runner) -> list[str]:
        """What to try next, if the last held-out loss does not beat the baselines."""
        margin = next((point['recon/margin'] for point in reversed(self.points) if 'recon/margin' in point), 1)
        return [] if margin > 0 else what_to_try(*self.start, runner)

    def _effort(self, runner: Runner) -> str:
        """What was done, and how fast."""
        done = f'{runner.iter:,} iterations'
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            done = f'{runner.epoch:,} epochs ({done})'
        if 'train/time' in runner.message_hub.log_scalars:  # of IterTimerHook
            seconds = runner.message_hub.get_scalar('train/time').data[0]
            total = runner.message_hub.get_info('train_seconds', seconds.sum())
            done += f' in {timedelta(seconds=round(total))} of training'
            if self.images_per_iter:
                done += f', {self.images_per_iter * get_world_size() / np.median(seconds):,.0f} images/s'
        return f'Pre-trained {done}.'


def held_out(dataset: object) -> list[Path]:
    """The folder of the held-out images, or the first four of them if it has others, too; none of those in tars."""
    if not hasattr(dataset, 'get_data_info') or hasattr(dataset, 'shards'):
        return []
    if getattr(dataset, 'names', None) is None:
        return [Path(dataset.get_data_info(0)['img_path']).parent]
    return [*dict.fromkeys(Path(dataset.get_data_info(i)['img_path']) for i in range(min(4, len(dataset))))]


def read_points(file: Path) -> list[dict[str, float]]:
    """Lines of a `curve.jsonl`; a last line that a killed run left unfinished is dropped."""
    lines = file.read_text().splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith('}')]


def verdict(points: Sequence[dict[str, float]]) -> list[str]:
    """A few lines: does the last held-out loss beat the baselines that need no learning?"""
    last = next((point for point in reversed(points) if 'recon/loss' in point), None)
    if last is None:
        losses = [point['loss'] for point in points if 'loss' in point]
        return [
            f'Training loss {losses[-1]:.4f}.' if losses else 'No iteration was run.',
            'No validation was run, so there are no held-out images to judge it by.']
    answer = f'The model beats both baselines, the better one by {last["recon/margin"]:.1%}.'
    if not last['recon/margin'] > 0:
        unbeaten = [name for key, name in BASELINES.items() if not last['recon/loss'] < last[key]]
        answer = f'The model does not beat {" and ".join(unbeaten)} yet, margin {last["recon/margin"]:.1%}.'
    return [
        'Masked loss on held-out images',
        f'  {"this model":<16}{last["recon/loss"]:.4f}',
        *(f'  {name:<16}{last[key]:.4f}   needs no learning' for key, name in BASELINES.items()),
        *([f'  all without flat patches (almost one colour): {last["recon/flat"]:.1%} of the hidden ones']
          if 'recon/flat' in last else []),
        answer]


def box(lines: Sequence[str]) -> str:
    """Frame lines of text, in ASCII so that every terminal shows it."""
    width = max(map(len, lines))
    edge = f'+{"-" * (width + 2)}+'
    return '\n'.join([edge, *(f'| {line:<{width}} |' for line in lines), edge])


def draw_curve(points: Sequence[dict[str, float]], path: Path, unit: str, iters_per_unit: int) -> None:
    """Draw training loss, held-out loss and both baselines over epochs or iterations (`unit`), as a PNG."""
    axes = (figure := Figure(figsize=(8, 5))).add_subplot()
    for name, label, style in (
            ('loss', 'training', dict(color='tab:blue', alpha=0.6)),
            ('recon/loss', 'held-out', dict(color='tab:orange', marker='o', markersize=4))):
        xy = [(point['iter'] / iters_per_unit, point[name]) for point in points if name in point]
        if xy:
            axes.plot(*zip(*xy, strict=True), label=f'{label}: {xy[-1][1]:.4f}', **style)
    for (key, label), line in zip(BASELINES.items(), ('--', ':'), strict=True):
        for level in [point[key] for point in points if key in point][-1:]:
            axes.axhline(level, label=f'{label}: {level:.4f}', color='0.4', linestyle=line)
    axes.set(xlabel=unit, ylabel='masked loss', xlim=(0, None))
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend()
    figure.savefig(path, dpi=120)
