"""Panel and summary, in real runs of mmengine's Runner: 6 images, 3 iterations an epoch."""

import json
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers.noise_runs import BOTH, Noise, log_of
from helpers.tiny import DECODER, ENCODER
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mae_mm.engine.hooks import summary
from mae_mm.engine.hooks.summary import box, draw_curve, read_points, verdict
from mae_mm.visualization import panel_hook as panel
from mae_mm.visualization.panels import HIDDEN, load_model, reconstruction_panel
from mae_mm.visualization.pictures import GUTTER

LEARNED = {'recon/loss': 0.6, 'recon/patch_mean': 1.0, 'recon/interpolation': 0.8, 'recon/margin': 0.25}
BEHIND = {'recon/loss': 0.9, 'recon/patch_mean': 1.0, 'recon/interpolation': 0.8, 'recon/margin': -0.125}


class Mode(Hook):
    """Not ours: another hook of the run, to see what the model is after the panel was drawn."""

    def after_val(self, runner: Runner) -> None:
        self.training = runner.model.training


def drawn(runner: Runner) -> dict[str, np.ndarray]:
    """Panels that reached the visualiser, by name."""
    folder = Path(runner.log_dir) / 'vis_data/vis_image'
    return {path.stem: np.array(Image.open(path)) for path in folder.glob('*.png')}


def losses(runner: Runner) -> np.ndarray:
    return runner.message_hub.get_scalar('train/loss').data[0]


def test_panel_shows_fixed_images_under_fixed_masks(run: Callable) -> None:
    runner = run()
    panels = drawn(runner)
    assert sorted(panels) == ['reconstruction_1', 'reconstruction_2']
    np.testing.assert_array_equal(np.array(Image.open(Path(runner.work_dir) / 'panel.png')), panels['reconstruction_2'])
    width = 160 + GUTTER
    first, second = panels['reconstruction_1'], panels['reconstruction_2']
    np.testing.assert_array_equal(first[:, :2 * width], second[:, :2 * width])  # original and masked
    assert (first[:, 2 * width:] != second[:, 2 * width:]).any()  # it has learned
    hook = next(hook for hook in runner.hooks if isinstance(hook, panel.PanelHook))
    assert hook.batch[1] == [0, 2, 3, 5]  # evenly spaced over six
    np.testing.assert_array_equal(second, reconstruction_panel(runner.model, hook.batch[0], sample_idx=[0, 2, 3, 5]))
    assert (second == HIDDEN).any()


def test_tensorboard_gets_numbers_panels_and_config(run: Callable) -> None:
    backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
    runner = run(visualizer=dict(type='Visualizer', vis_backends=backends), cfg=Config(dict(mark=7)))
    events = EventAccumulator(f'{runner.log_dir}/vis_data')
    events.Reload()
    assert [image.step for image in events.Images('reconstruction')] == [1, 2] == [
        scalar.step for scalar in events.Scalars('recon/loss')]
    assert [scalar.step for scalar in events.Scalars('loss')] == [2, 5]  # every second step of an epoch
    lines = map(json.loads, Path(runner.log_dir, 'vis_data/scalars.json').read_text().splitlines())  # of the other one
    values = [line['loss'] for line in lines if 'loss' in line]
    np.testing.assert_allclose([scalar.value for scalar in events.Scalars('loss')], values, rtol=1e-6)
    assert {'lr', 'time', 'data_time', 'recon/margin'} <= set(events.Tags()['scalars'])
    assert 'config/text_summary' in events.Tags()['tensors']
    assert len(drawn(runner)) == 2


def test_mlflow_gets_panels_with_an_extension(
        run: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow = Mock()
    monkeypatch.setitem(sys.modules, 'mlflow', mlflow)
    backends = [dict(type='LocalVisBackend'), dict(type='MLflowVisBackend')]
    run(visualizer=dict(type='Visualizer', vis_backends=backends), cfg=Config(dict(work_dir=str(tmp_path))))
    assert [call.args[1] for call in mlflow.log_image.call_args_list] == [
        'reconstruction_1.png', 'reconstruction_2.png']


def test_panel_interval_always_draws_the_last(run: Callable) -> None:
    hook = dict(type='mae_mm.PanelHook', num_images=99, interval=2)
    runner = run(custom_hooks=[hook], train_cfg=dict(by_epoch=True, max_epochs=3))
    assert sorted(drawn(runner)) == ['reconstruction_2', 'reconstruction_3']
    assert drawn(runner)['reconstruction_3'].shape[0] == 24 + 6 * 166  # no more rows than images


def test_panel_of_chosen_bands(run: Callable) -> None:
    runner = run(custom_hooks=[dict(type='mae_mm.PanelHook', num_images=1, bands=[2])])
    original = drawn(runner)['reconstruction_2'][24:-6, 6:166]
    assert (original == original[..., :1]).all()  # gray
    hook = next(hook for hook in runner.hooks if isinstance(hook, panel.PanelHook))
    np.testing.assert_array_equal(original[::5, ::5, 0], hook.batch[0][0, 1].numpy())


def test_panel_of_a_validation_without_training(run: Callable) -> None:
    runner = run(custom_hooks=[], train_cfg=dict(by_epoch=True, max_epochs=1))
    hook = panel.PanelHook(num_images=1)
    runner._train_loop = dict()  # as when only `runner.val()` was called
    hook.after_val_epoch(runner)
    assert list(drawn(runner)) == ['reconstruction_0']


def test_hooks_leave_training_as_it_was(run: Callable) -> None:
    """Same weights with and without them: no generator was touched, and no mode."""
    with_hooks, without = run(custom_hooks=[*BOTH, mode := Mode()]), run('plain', custom_hooks=[])
    assert mode.training is False  # as validation left it
    np.testing.assert_array_equal(losses(with_hooks), losses(without))
    for name, weight in without.model.state_dict().items():
        assert torch.equal(with_hooks.model.state_dict()[name], weight), name


def test_random_state_survives_a_panel(run: Callable) -> None:
    runner = run(custom_hooks=[], train_cfg=dict(by_epoch=True, max_epochs=1))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    panel.PanelHook().after_val_epoch(runner)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize('options', [dict(num_images=0), dict(interval=0)])
def test_panel_refuses_nothing_to_draw(options: dict) -> None:
    with pytest.raises(ValueError, match='must be 1 or more'):
        panel.PanelHook(**options)


def test_summary_keeps_and_reports_what_was_measured(run: Callable) -> None:
    runner = run()
    points = read_points(Path(runner.work_dir) / 'curve.jsonl')
    per_iter = losses(runner)
    assert [p['iter'] for p in points if 'loss' in p] == [2, 5, 6]  # as LoggerHook logs them
    assert [p['iter'] for p in points if 'recon/loss' in p] == [3, 6]
    np.testing.assert_allclose([p['loss'] for p in points if 'loss' in p], per_iter[[1, 4, 5]], rtol=1e-6)
    metrics = {name: runner.message_hub.get_scalar(f'val/{name}').current() for name in LEARNED}
    assert points[-1] == dict(iter=6, **metrics)

    log = log_of(runner)
    seconds = runner.message_hub.get_scalar('train/time').data[0]
    assert 'Pre-trained 2 epochs (6 iterations) in 0:00:0' in log
    assert f'{2 / np.median(seconds):,.0f} images/s' in log
    for line in verdict(points):
        assert line in log
    checkpoint = Path(runner.work_dir) / 'epoch_2.pth'
    for file in (checkpoint, *(Path(runner.work_dir) / name for name in ('curve.png', 'curve.jsonl', 'panel.png'))):
        assert file.stat().st_size and f'{file} ' in log
    assert f'python tools/visualize.py {checkpoint} /photos/held_out --what pca ' in log
    assert f'python tools/transfer.py {checkpoint} --data LABELLED --out report' in log
    assert Image.open(Path(runner.work_dir) / 'curve.png').size == (960, 600)


def test_checkpoints_of_a_run_can_be_drawn(run: Callable) -> None:
    runner = run(train_cfg=dict(by_epoch=True, max_epochs=1))
    model = dict(
        type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', **ENCODER), neck=dict(type='mae_mm.MAEDecoder', **DECODER))
    state = load_model(Config(dict(model=model)), f'{runner.work_dir}/epoch_1.pth').state_dict()
    assert all(torch.equal(weight, state[name]) for name, weight in runner.model.state_dict().items())


def test_without_validation_only_the_training_loss_is_reported(run: Callable) -> None:
    runner = run(val_dataloader=None, val_cfg=None, val_evaluator=None, train_cfg=dict(by_epoch=True, max_epochs=1))
    log, per_iter = log_of(runner), losses(runner)
    assert f'Training loss {per_iter[2]:.4f}.' in log and 'No validation was run' in log  # 3 = one interval and a rest
    assert 'epoch_1.pth IMAGES --what' in log and 'panel.png ' not in log
    assert [p['iter'] for p in read_points(Path(runner.work_dir) / 'curve.jsonl')] == [2, 3]
    assert (Path(runner.work_dir) / 'curve.png').exists()


def test_resumed_run_goes_on_with_its_points(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = run()
    file = Path(runner.work_dir) / 'curve.jsonl'
    kept = read_points(file)
    with file.open('a') as lines:  # iterations after the checkpoint, and a line cut off when the run was killed
        lines.write(json.dumps(dict(iter=8, loss=9.0)) + '\n{"iter": 9, "lo')
    monkeypatch.setattr(torch, 'load', partial(torch.load, weights_only=False))
    resumed = run(resume=True, train_cfg=dict(by_epoch=True, max_epochs=3))
    points = read_points(file)
    assert points[:len(kept)] == kept and [p['iter'] for p in points[len(kept):]] == [8, 9, 9]
    assert all(p.get('loss') != 9.0 for p in points) and len(losses(resumed)) == 9
    assert '3 epochs (9 iterations)' in log_of(resumed)
    run(train_cfg=dict(by_epoch=True, max_epochs=1))  # a new run starts a new curve
    assert [p['iter'] for p in read_points(file)] == [2, 3, 3]


def test_iteration_based_training(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = []
    monkeypatch.setattr(summary, 'draw_curve', lambda points, path, *unit: curves.append((len(points), *unit)))
    endless = dict(
        dataset=Noise(), batch_size=2, num_workers=0, sampler=dict(type='InfiniteSampler'),
        collate_fn=dict(type='default_collate'))
    runner = run(
        train_dataloader=endless, train_cfg=dict(by_epoch=False, max_iters=4, val_interval=3),
        log_processor=dict(by_epoch=False))
    assert sorted(drawn(runner)) == ['reconstruction_3', 'reconstruction_4']
    points = read_points(Path(runner.work_dir) / 'curve.jsonl')
    assert [p['iter'] for p in points if 'recon/loss' in p] == [3, 4]
    assert curves == [(2, 'iteration', 1), (4, 'iteration', 1), (4, 'iteration', 1)]  # each validation, and the end
    assert 'Pre-trained 4 iterations in' in log_of(runner)


def test_only_the_first_rank_writes(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, 'is_main_process', lambda: False)
    monkeypatch.setattr(summary, 'is_main_process', lambda: False)
    runner = run()
    assert not drawn(runner) and not {p.name for p in Path(runner.work_dir).iterdir()} & {
        'panel.png', 'curve.png', 'curve.jsonl'}
    assert 'Pre-trained' not in log_of(runner)


def test_next_commands_are_filled_in(run: Callable) -> None:
    hook = dict(type='mae_mm.SummaryHook', next_commands=['first {work_dir}', 'then {checkpoint} of {config}'])
    log = log_of(runner := run('my run', custom_hooks=[hook]))
    assert f"  first '{runner.work_dir}'\n" in log and f"  then '{runner.work_dir}/epoch_2.pth' of CONFIG" in log


def test_verdict_names_the_winner() -> None:
    train = dict(iter=1, loss=0.7)
    assert verdict([train, dict(iter=1, **BEHIND), dict(iter=2, **LEARNED), train]) == [
        'Masked loss on held-out images',
        '  this model      0.6000',
        '  the patch mean  1.0000   needs no learning',
        '  interpolation   0.8000   needs no learning',
        'The model beats both baselines, the better one by 25.0%.']
    assert verdict([dict(iter=1, **BEHIND)])[-1] == (
        'The model does not beat interpolation yet, margin -12.5%.')
    assert verdict([dict(iter=1, **LEARNED, **{'recon/flat': 0.125})])[4] == (
        '  all without flat patches (almost one colour): 12.5% of the hidden ones')
    broken = dict.fromkeys(LEARNED, float('nan'))
    assert 'does not beat the patch mean and interpolation yet' in verdict([dict(iter=1, **broken)])[-1]
    assert verdict([])[0] == 'No iteration was run.'


def test_box_frames_every_line() -> None:
    assert box(['one', '', 'three']) == '+-------+\n| one   |\n|       |\n| three |\n+-------+'


def test_curve_draws_both_losses_and_both_baselines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(summary.Figure, 'savefig', lambda figure, path, **_: figures.append(figure))
    draw_curve([dict(iter=5, loss=0.7), dict(iter=10, loss=0.5), dict(iter=10, **LEARNED)], tmp_path / 'x', 'epoch', 5)
    axes = figures[0].axes[0]
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines['training: 0.5000'] == [[1, 0.7], [2, 0.5]] and lines['held-out: 0.6000'] == [[2, 0.6]]
    assert [y for _, y in lines['the patch mean: 1.0000']] == [1, 1]
    assert [y for _, y in lines['interpolation: 0.8000']] == [0.8, 0.8]
    assert axes.get_xlabel() == 'epoch' and len(axes.get_legend().get_texts()) == 4
