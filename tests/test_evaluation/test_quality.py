"""What the hook sees, in real runs and on several processes."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import free_port
from helpers.noise_runs import Noise, log_of, noise_trainer
from mmengine.dataset import pseudo_collate
from mmengine.hooks import EMAHook, Hook
from mmengine.model import MMDistributedDataParallel, MMFullyShardedDataParallel
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch import multiprocessing, nn
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.utils.data import Dataset

from mae_mm.evaluation import quality
from mae_mm.evaluation.meters import alpha_req, attention_distance, rankme
from mae_mm.evaluation.quality import METERS, QualityHook, see
from mae_mm.models.attention import Block
from mae_mm.models.mae import MAE
from mae_mm.models.masked_conv import MaskedConv
from mae_mm.registry import DATASETS


class Fixed(Dataset):
    """Images of noise, always the same: (3, 16, 32) uint8."""

    def __init__(self, num: int) -> None:
        self.imgs = np.random.default_rng(0).integers(0, 256, (num, 3, 16, 32), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.imgs)

    def __getitem__(self, i: int) -> dict:
        return dict(inputs=torch.from_numpy(self.imgs[i]), sample_idx=i)


@DATASETS.register_module()
class Bright(Dataset):
    """Bright images and dark ones; which, is the label."""

    metainfo: dict = {}

    def __init__(self, num: int) -> None:
        self.num = num

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> dict:
        return dict(inputs=torch.full((3, 32, 32), 40 + 150 * (i % 2), dtype=torch.uint8),
                    data_samples=DataSample().set_gt_label(i % 2))


@pytest.fixture
def run(make_mae: Callable, tmp_path: Path) -> Callable[..., Runner]:
    return noise_trainer(make_mae, tmp_path)


def with_validation(num: int) -> dict:
    """A validation on `num` images."""
    return dict(
        dataset=Noise(num), batch_size=16, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'))


def logged(runner: Runner) -> list[dict]:
    """The scalars of the hook that reached the visualizer."""
    lines = (Path(runner.log_dir) / 'vis_data/scalars.json').read_text().splitlines()
    return [row for row in map(json.loads, lines) if 'quality/images' in row]


def test_sees_whole_images_as_the_encoder_does(make_mae: Callable) -> None:
    """Seven images of 2x4 patches, in three batches of which the last is smaller."""
    model, dataset = make_mae().eval(), Fixed(7)
    seen = see(model, dataset, batch_size=3)
    imgs = model.data_preprocessor(pseudo_collate([dataset[i] for i in range(7)]))['inputs']
    with torch.no_grad():
        expected = model.backbone(imgs)[0][:, 1:].mean(1)
    order = (torch.cdist(seen.features, expected) < 1e-4).nonzero()
    assert order[:, 0].tolist() == list(range(7)) and sorted(order[:, 1].tolist()) == list(range(7))
    assert order[:, 1].tolist() != list(range(7))  # mixed, so that the first ones are not of one folder
    x = model.backbone._prepend_cls_token(model.backbone.embed(imgs))
    for block, distance in zip(model.backbone.blocks, seen.distances, strict=True):
        weights = block.attn.weights(block.norm1(x))
        torch.testing.assert_close(distance, attention_distance(weights, (2, 4)).mean())
        x = block(x)
    assert not len(see(model, dataset, attention=False).distances)
    assert not any(part._forward_hooks for part in model.modules())


def test_time_is_up_after_a_batch(make_mae: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    for times, images in (([0, 4, 9, 11], 12), ([0, 99], 4)):  # never none
        monkeypatch.setattr(quality, 'time', SimpleNamespace(monotonic=iter(times).__next__))
        assert len(see(make_mae().eval(), Fixed(50), seconds=10, batch_size=4).features) == images


def test_no_images(make_mae: Callable) -> None:
    with pytest.raises(ValueError, match='0 held-out images for 1 processes'):
        see(make_mae().eval(), [])


def test_hook_logs_meters_and_leaves_training_alone(run: Callable) -> None:
    """Weights end as without it, to the bit, though the pipeline draws from every generator."""
    plain = run('plain', custom_hooks=[], val_dataloader=with_validation(40))
    hook = dict(type='mae_mm.QualityHook', meters=METERS)
    runner = run(custom_hooks=[hook], val_dataloader=with_validation(40))
    for name, weight in plain.model.state_dict().items():
        assert torch.equal(runner.model.state_dict()[name], weight), name
    rows = logged(runner)
    assert [row['step'] for row in rows] == [1, 2] and all(row['quality/images'] == 40 for row in rows)
    names = {'quality/rankme', 'quality/alpha_req', *(f'quality/attention_distance/block_{i}' for i in (0, 1))}
    assert names <= set(rows[1]) and f'quality/rankme {rows[1]["quality/rankme"]:.4g}' in log_of(runner)
    # The data set draws new numbers each time, so what was seen cannot be repeated; it is near.
    seen = see(runner.model.eval(), Noise(40))
    assert rows[1]['quality/rankme'] == pytest.approx(rankme(seen.features), rel=0.1)
    assert rows[1]['quality/alpha_req'] == pytest.approx(alpha_req(seen.features), rel=0.3)
    assert rows[1]['quality/attention_distance'] == pytest.approx(
        sum(rows[1][f'quality/attention_distance/block_{i}'] for i in (0, 1)) / 2)
    assert rows[1]['quality/attention_distance/block_1'] == pytest.approx(seen.distances[1].item(), rel=0.1)


def test_random_state_survives(run: Callable) -> None:
    runner = run(custom_hooks=[], train_cfg=dict(by_epoch=True, max_epochs=1))
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    images = dict(type='mae_mm.Bright', num=4)
    QualityHook(probe=dict(train_dataset=images, val_dataset=images)).after_val_epoch(runner)
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_too_few_images_are_reported_once_and_do_not_stop(run: Callable) -> None:
    hook = dict(type='mae_mm.QualityHook', meters=('rankme', 'attention_distance'))
    runner = run(custom_hooks=[hook])
    assert {'quality/rankme', 'quality/alpha_req'}.isdisjoint(logged(runner)[0])
    assert 'quality/attention_distance/block_1' in logged(runner)[0]
    assert 'QualityHook: no rankme: features of shape (6, 32)' in log_of(runner)


def test_averaged_weights_are_measured(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def watch(model: nn.Module, *args: object) -> quality.Seen:
        found.append(next(model.parameters()).detach().clone())
        return see(model, *args)

    class Trained(Hook):
        def after_train_epoch(self, runner: Runner) -> None:
            self.weights = next(runner.model.parameters()).detach().clone()

    monkeypatch.setattr(quality, 'see', watch)
    trained, average = Trained(), EMAHook(momentum=0.5)
    run(custom_hooks=[dict(type='mae_mm.QualityHook'), average, trained], train_cfg=dict(by_epoch=True, max_epochs=1))
    assert torch.equal(found[0], next(average.ema_model.module.parameters()))
    assert not torch.equal(found[0], trained.weights)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_precision_is_that_of_the_training(run: Callable, monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    seen = set()

    def watch(model: nn.Module, *args: object) -> quality.Seen:
        model.backbone.blocks[0].register_forward_hook(lambda module, args, out: seen.add(module.mlp.fc1(out).dtype))
        return see(model, *args)

    monkeypatch.setattr(quality, 'see', watch)
    run(custom_hooks=[dict(type='mae_mm.QualityHook')], train_cfg=dict(by_epoch=True, max_epochs=1), optim_wrapper=dict(
        type='mae_mm.AutocastOptimWrapper', dtype=dtype, optimizer=dict(type='AdamW', lr=1e-3)))
    assert seen == {getattr(torch, dtype)}


def test_probe_on_labelled_images(run: Callable) -> None:
    probe = dict(train_dataset=dict(type='mae_mm.Bright', num=12), val_dataset=dict(type='mae_mm.Bright', num=6))
    runner = run(custom_hooks=[dict(type='mae_mm.QualityHook', meters=(), probe=probe)])
    assert logged(runner)[-1]['quality/knn'] == 100  # needs no learning
    assert set(logged(runner)[-1]) == {'quality/images', 'quality/knn', 'step'}


def test_interval(run: Callable) -> None:
    hook = dict(type='mae_mm.QualityHook', interval=2, meters=())
    assert [row['step'] for row in logged(run(custom_hooks=[hook], train_cfg=dict(by_epoch=True, max_epochs=3)))] == [
        2, 3]


def test_convolutions_have_no_attention() -> None:
    backbone = dict(type='mmpretrain.ResNet', depth=18, norm_cfg=dict(type='BN'))
    model = MaskedConv(backbone, dict(type='mae_mm.ConvDecoder', in_channels=512), patch_size=16).eval()
    seen = see(model, Fixed(3))
    assert seen.features.shape == (3, 512) and not len(seen.distances)


@pytest.mark.parametrize(('options', 'message'), [
    (dict(seconds=0), 'seconds and batch_size must be positive, got 0'),
    (dict(meters=('rank', )), r"meters=\['rank'\] must be of rankme, alpha_req, attention_distance"),
    (dict(interval=0), 'interval must be 1 or more'),
    (dict(probe=dict(dataset=1)), r"probe has \['dataset'\]; it needs train_dataset and val_dataset"),
])
def test_refused_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QualityHook(**options)


def _see_as(rank: int, model: MAE, folder: Path, port: int, sharded: bool) -> None:
    """See as one of two processes, of which the second is slow; then take a step."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model.train()
    model = MMFullyShardedDataParallel(
        model, use_orig_params=True, auto_wrap_policy=ModuleWrapPolicy({Block}), device_id=torch.device('cpu'),
    ) if sharded else MMDistributedDataParallel(model, device_ids=None, static_graph=True, broadcast_buffers=False)
    model.eval()
    torch.save(see(model, Fixed(8), batch_size=2), folder / f'{rank}.pth')
    quality.time = SimpleNamespace(monotonic=iter([0, 1, 99 * rank, 2, 3, 4]).__next__)
    torch.save(see(model, Fixed(9), seconds=50, batch_size=1), folder / f'late{rank}.pth')
    model.train()
    for _ in range(2):
        imgs = model.module.data_preprocessor(dict(inputs=torch.rand(2, 3, 32, 32)))['inputs']
        model(imgs, mode='loss')['loss'].backward()


@pytest.mark.integration
@pytest.mark.parametrize('sharded', [False, True])
def test_processes_share_the_images_and_stop_together(make_mae: Callable, tmp_path: Path, sharded: bool) -> None:
    model = make_mae()
    multiprocessing.start_processes(
        _see_as, (model, tmp_path, free_port(), sharded), 2, start_method='fork')
    alone = see(model.eval(), Fixed(8))
    with torch.serialization.safe_globals([quality.Seen]):
        first, second, late = (torch.load(tmp_path / f'{name}.pth') for name in ('0', '1', 'late0'))
    torch.testing.assert_close(first.distances, alone.distances)
    torch.testing.assert_close(first.features.sort(0)[0], alone.features.sort(0)[0])
    assert torch.equal(first.features, second.features) and torch.equal(first.distances, second.distances)
    assert len(late.features) == 4  # two batches of one image each: the slow one decides


def test_meters_that_tell_nothing_are_not_in_the_default() -> None:
    assert QualityHook().meters == ('attention_distance', 'rankme')  # docs/meters.md
