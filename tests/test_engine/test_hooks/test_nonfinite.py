"""NaN and infinity through an image, a weight and a gradient: no step is taken; the run continues or stops."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.reliability import ALONE, EPOCH, build, restore_signals, save_images, tiny_config, train
from mmengine.hooks import Hook
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from mae_mm.engine.hooks.nonfinite import NonFiniteHook, file_names
from mae_mm.engine.optim.lars import LARS
from mae_mm.stopping import TrainingStopped

pytestmark = pytest.mark.integration

BAD = [float('nan'), float('inf'), float('-inf')]
OPTIMIZERS = [
    lambda params: torch.optim.AdamW(params, lr=1e-2, fused=True), lambda params: torch.optim.AdamW(params, lr=1e-2),
    lambda params: torch.optim.SGD(params, lr=1e-2, momentum=0.9, fused=True), lambda params: LARS(params, lr=1e-2)]


class Poison(Hook):
    """Puts a bad number into the images, or a weight, of some iterations, while the data order is one of some."""

    priority = 'VERY_HIGH'

    def __init__(self, iterations: range, orders: range = range(1), weight: bool = False) -> None:
        self.iterations, self.orders, self.weight = iterations, orders, weight
        self.seen: list[tuple[int, int, list[str]]] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        order = runner.message_hub.get_info('data_order', 0)
        self.seen.append((order, runner.iter, list(data_batch['img_path'])))
        if runner.iter + 1 in self.iterations and order in self.orders:
            if self.weight:
                runner.model.backbone.norm.weight.data[0] = float('nan')
            else:
                data_batch['inputs'] = data_batch['inputs'].float()
                data_batch['inputs'][0, 0, 0, 0] = float('inf')


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


def everything(model: torch.nn.Module, wrapper) -> list[torch.Tensor]:
    """Weights and optimizer state, copied; a counter of steps that starts with the first step is left out."""
    states = [value for slot in wrapper.optimizer.state.values() for value in slot.values()]
    return [value.detach().clone() for value in [*model.parameters(), *states] if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize('make', OPTIMIZERS)
@pytest.mark.parametrize('through', ['image', 'weight', 'gradient', 'loss'])
def test_no_step_is_taken(make, through: str, make_mae, imgs) -> None:
    mae = make_mae()
    params = [param for param in mae.parameters() if param.requires_grad]
    wrapper = OPTIM_WRAPPERS.build(dict(type='mae_mm.AutocastOptimWrapper', optimizer=make(params)))
    mae.train_step(dict(inputs=imgs), wrapper)
    assert not wrapper.bad_step
    for value in BAD[through == 'image':]:  # NaN in an image is a pixel without data
        before, image = everything(mae, wrapper), imgs.clone()
        undo = None
        if through == 'image':
            image[0, 0, 0, 0] = value
        elif through == 'weight':
            weight = mae.backbone.norm.weight
            weight.data, undo = weight.data.clone(), weight.data.clone()
            weight.data[0] = value
            before = everything(mae, wrapper)
        elif through == 'gradient':
            handle = mae.backbone.norm.bias.register_hook(lambda grad, value=value: grad.index_fill(
                0, torch.tensor([0]), value))
        if through == 'loss':  # its gradient alone would be finite
            with wrapper.optim_context(mae):
                loss = mae(mae.data_preprocessor(dict(inputs=image), True)['inputs'], mode='loss')['loss']
            wrapper.update_params(loss + value)
        else:
            mae.train_step(dict(inputs=image), wrapper)
        after = everything(mae, wrapper)
        assert bool(wrapper.bad_step)
        assert all(torch.equal(x, y) or (through == 'weight' and torch.allclose(x, y, equal_nan=True))
                   for x, y in zip(before, after, strict=True))
        if through == 'gradient':
            handle.remove()
        if undo is not None:
            mae.backbone.norm.weight.data = undo
    before = everything(mae, wrapper)
    mae.train_step(dict(inputs=imgs), wrapper)
    assert not wrapper.bad_step and not torch.equal(before[0], everything(mae, wrapper)[0])


def test_one_bad_batch_spoils_its_whole_accumulated_step(make_mae, imgs) -> None:
    mae = make_mae()
    params = [param for param in mae.parameters() if param.requires_grad]
    wrapper = OPTIM_WRAPPERS.build(dict(
        type='mae_mm.GuardedOptimWrapper', optimizer=OPTIMIZERS[0](params), accumulative_counts=2,
        clip_grad=dict(max_norm=1.0)))
    before = everything(mae, wrapper)
    mae.train_step(dict(inputs=imgs * float('inf')), wrapper)
    assert wrapper.bad_step is None
    mae.train_step(dict(inputs=imgs), wrapper)
    assert wrapper.bad_step and all(map(torch.equal, before, everything(mae, wrapper)))
    for _ in range(2):
        mae.train_step(dict(inputs=imgs), wrapper)
    assert not wrapper.bad_step and not all(map(torch.equal, before, everything(mae, wrapper)))


def test_a_bad_batch_is_counted_and_named(images: Path, tmp_path: Path) -> None:
    poison = Poison(range(3, 4))
    runner = train(tiny_config(images, tmp_path, **ALONE, **{'train_cfg.max_epochs': 2}), hooks=(poison,))
    line, = (tmp_path / 'nonfinite.jsonl').read_text().splitlines()
    assert json.loads(line) == dict(iter=3, rank=0, images=poison.seen[2][2])
    assert runner.iter == 2 * EPOCH and runner.message_hub.get_info('skipped_steps') == 1
    assert runner.message_hub.get_info('data_order') in (None, 0)


@pytest.mark.parametrize('weight', [False, True])
def test_a_run_of_bad_steps_goes_back_with_another_order(images: Path, tmp_path: Path, weight: bool) -> None:
    first = EPOCH + 2
    poison = Poison(range(first, first + (1 if weight else 3)), weight=weight)
    runner = train(tiny_config(images, tmp_path, **ALONE, **{'train_cfg.max_epochs': 3}), hooks=(poison,))
    assert runner.iter == 3 * EPOCH and runner.message_hub.get_info('data_order') == 1
    assert all(bool(value.isfinite().all()) for value in runner.model.state_dict().values())
    orders = {order: [names for o, i, names in poison.seen if o == order and i == EPOCH] for order in (0, 1)}
    assert orders[0] and orders[1] and orders[0] != orders[1]  # iteration EPOCH + 1 was seen twice, with other images
    saved = torch.load(tmp_path / 'epoch_3.pth', weights_only=False)
    assert saved['message_hub']['runtime_info']['data_order'] == 1


def test_it_goes_back_n_times_at_most(images: Path, tmp_path: Path) -> None:
    options = {**ALONE, 'default_hooks.nonfinite.max_rollbacks': 1}
    runner = build(tiny_config(images, tmp_path, **options), hooks=(Poison(range(EPOCH + 1, 999), range(9)),))
    with pytest.raises(TrainingStopped, match='after 1 returns to a checkpoint') as stop:
        runner.train()
    restore_signals(runner)
    assert str(tmp_path / 'nonfinite.jsonl') in str(stop.value)
    assert (tmp_path / 'epoch_1.pth').exists() and not (tmp_path / 'epoch_2.pth').exists()


def test_no_checkpoint_is_written_in_the_middle_of_bad_steps(images: Path, tmp_path: Path) -> None:
    """Weights may be finite, and no good all the same; at the end of the training they are written."""
    options = {**ALONE, 'train_cfg.max_epochs': 3, 'default_hooks.nonfinite.patience': 99}
    runner = train(tiny_config(images, tmp_path / 'bad', **options), hooks=(Poison(range(2 * EPOCH - 1, 999)),))
    assert {path.name for path in (tmp_path / 'bad').glob('*.pth')} == {'epoch_1.pth', 'epoch_3.pth'}
    assert runner.message_hub.get_info('skipped_in_a_row') == EPOCH + 2
    train(tiny_config(images, tmp_path / 'one', **options), hooks=(Poison(range(2 * EPOCH, 2 * EPOCH + 1)),))
    assert (tmp_path / 'one/epoch_2.pth').exists()  # one bad step is the fault of its images


def test_the_second_return_goes_further_back(images: Path, tmp_path: Path) -> None:
    options = {**ALONE, 'train_cfg.max_epochs': 4, 'default_hooks.nonfinite.max_rollbacks': 2}
    poison = Poison(range(2 * EPOCH + 1, 999), range(2))
    runner = train(tiny_config(images, tmp_path, **options), hooks=(poison,))
    starts = [min(i for o, i, _ in poison.seen if o == order) for order in range(3)]
    assert starts == [0, 2 * EPOCH, EPOCH] and runner.iter == 4 * EPOCH


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(images: Path, tmp_path: Path) -> None:
    runner = build(tiny_config(images, tmp_path, **ALONE), hooks=(Poison(range(1, 999)),))
    with pytest.raises(TrainingStopped, match='no checkpoint was written yet'):
        runner.train()
    restore_signals(runner)


def test_file_names_of_every_host() -> None:
    class Sample:
        img_path = 'a.jpg'

    assert file_names(dict(img_path=['a.jpg'])) == file_names(dict(data_samples=[Sample()])) == ['a.jpg']
    assert file_names(None) == file_names(dict(data_samples=[object()])) == []


def test_names_are_kept_only_for_a_wrapper_that_reports_bad_steps() -> None:
    """With mmengine's AmpOptimWrapper nobody asks for them, and they would grow for ever."""
    hook = NonFiniteHook(interval=100)
    hook.names, hook.steps = [], []
    runner = SimpleNamespace(optim_wrapper=SimpleNamespace(), iter=0, max_iters=1000, train_loop=None)
    for runner.iter in range(3):
        hook.after_train_iter(runner, 0, dict(img_path=['a.jpg']))
    assert hook.names == [] and hook.steps == []
    runner.optim_wrapper = SimpleNamespace(bad_step=None)  # accumulates: kept for the step to come
    hook.after_train_iter(runner, 0, dict(img_path=['a.jpg']))
    assert hook.names == ['a.jpg']
