"""One training on one, two and four processes of a CPU; sharded weights; a process that dies."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, free_port
from mmengine.config import Config
from PIL import Image
from torch import multiprocessing
from torch.utils._pytree import tree_leaves

from mae_mm.checkpoint import allow_mmengine_objects
from mae_mm.engine import runner as launch
from mae_mm.models.masking import fixed_noise
from mae_mm.models.vit import ViT
from mae_mm.registry import TRANSFORMS

pytestmark = pytest.mark.integration


@TRANSFORMS.register_module()
class AddNoise:
    """Noise for an image's mask that depends on its number alone."""

    def __call__(self, results: dict) -> dict:
        return dict(results, noise=fixed_noise([results['sample_idx']], 36)[0])


@pytest.fixture(scope='module')
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('images')
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 48), Image.BICUBIC).save(folder / f'{i:02}.png')
    return folder


def config(images: Path, work_dir: Path, batch: int, epochs: int, base: str = 'demo/mae_pretrain.py', **more) -> Config:
    """The demo recipe, tiny: 24 images, fixed views and masks, no validation, a reading in every iteration.

    AdamW's epsilon is far above rounding. With 1e-8, parameters whose gradient is zero but for rounding (biases of
    keys: softmax does not depend on them) would move by a full learning rate in a direction that depends on the CPU.
    """
    cfg = launch.load_config(str(ROOT / 'configs' / base), {
        'model.backbone.img_size': 48, 'model.backbone.patch_size': 8, 'model.neck.embed_dim': 24,
        'model.neck.depth': 1, 'model.neck.num_heads': 2,
        'train_dataloader.batch_size': batch, 'train_dataloader.num_workers': 0, 'train_cfg.max_epochs': epochs,
        'auto_scale_lr.base_batch_size': 24, 'optim_wrapper.type': 'mae_mm.GuardedOptimWrapper',
        'optim_wrapper.optimizer.lr': 1e-3, 'optim_wrapper.optimizer.eps': 1e-4,
        'default_hooks.logger.interval': 1, 'default_hooks.checkpoint.interval': 1,
        'custom_hooks': [], 'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1, 'log_level': 'ERROR'})
    cfg.merge_from_dict(more)
    cfg.model.backbone.arch = dict(embed_dim=24, depth=2, num_heads=2)
    cfg.train_dataloader.dataset = dict(type='mae_mm.ImageFolder', data_root=str(images), pipeline=[
        dict(type='mae_mm.LoadResizeCenterCrop', size=48), dict(type='mae_mm.AddNoise')])
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.work_dir, cfg.launcher, cfg.experiment_name = str(work_dir), 'none', work_dir.name
    return cfg


def train(cfg: Config) -> None:
    """Train here; the loss of each iteration goes to `losses.npy` of the work folder."""
    runner = launch.build_runner(cfg)
    runner.train()
    if runner.rank == 0:
        np.save(Path(cfg.work_dir) / 'losses.npy', runner.message_hub.get_scalar('train/loss').data[0])


def _train_as(rank: int, cfg: Config, processes: int, port: int) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    torch.set_num_threads(1)
    cfg.launcher = 'pytorch'
    train(cfg)
    torch.distributed.destroy_process_group()


def train_on(processes: int, cfg: Config) -> None:
    """Train in forked processes, which need not import anything."""
    multiprocessing.start_processes(_train_as, (cfg, processes, free_port()), processes, start_method='fork')


def result(work_dir: Path, epoch: int) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Loss curve and weights."""
    allow_mmengine_objects()
    weights = torch.load(work_dir / f'epoch_{epoch}.pth', map_location='cpu')['state_dict']
    return np.load(work_dir / 'losses.npy'), weights


def assert_same(work_dir: Path, other: Path, epoch: int = 2) -> None:
    (curve, weights), (curve_2, weights_2) = result(work_dir, epoch), result(other, epoch)
    np.testing.assert_allclose(curve, curve_2, rtol=1e-5)
    assert set(weights) == set(weights_2)
    for name, weight in weights.items():
        torch.testing.assert_close(weights_2[name], weight, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f'{n}: {m}')


@pytest.fixture(scope='module')
def alone(images, tmp_path_factory) -> Path:
    """Work folder of two epochs of three iterations in one process."""
    folder = tmp_path_factory.mktemp('alone')
    os.environ.pop('RANK', None)
    train(config(images, folder, batch=8, epochs=2))
    curve, _ = result(folder, 2)
    assert len(curve) == 6 and curve[-1] < curve[0]
    return folder


@pytest.mark.parametrize('processes', [2, pytest.param(4, marks=pytest.mark.slow)])
def test_as_many_processes_as_you_like_train_the_same(images, alone, tmp_path, processes):
    train_on(processes, config(images, tmp_path, batch=8 // processes, epochs=2))
    assert_same(alone, tmp_path)


def test_accumulated_gradients_are_exchanged_once(images, tmp_path):
    """Two batches to a step, each on two processes, are the batch of one process."""
    constant = dict(param_scheduler=None)
    train(config(images, tmp_path / 'alone', batch=8, epochs=1, **constant))
    train_on(2, config(images, tmp_path / 'two', batch=2, epochs=1, **constant, **{
        'optim_wrapper.accumulative_counts': 2}))
    for name, weight in result(tmp_path / 'alone', 1)[1].items():
        torch.testing.assert_close(result(tmp_path / 'two', 1)[1][name], weight, rtol=1e-5, atol=1e-5)


def test_sharded_weights_train_the_same_resume_and_transfer(images, alone, tmp_path, monkeypatch):
    """FSDP: one epoch, resumed for the second, to the bits of the run that was not; then any ViT takes the file.

    The main process alone reads the file, once.
    """
    recipe = dict(base='pretrain/vit_h14_1600e_fsdp.py')
    train_on(2, config(images, tmp_path, batch=4, epochs=2, **recipe))
    assert_same(alone, tmp_path)
    allow_mmengine_objects()
    whole = torch.load(tmp_path / 'epoch_2.pth')
    (tmp_path / 'epoch_2.pth').unlink()

    again = config(images, tmp_path, batch=4, epochs=2, **recipe)
    again.resume, again.load_from = True, str(tmp_path / 'epoch_1.pth')
    np.save(tmp_path / 'losses.npy', np.zeros(0))
    load = torch.load

    def counted(file: object, **options: object) -> object:
        if 'epoch_1' in str(file):  # torch loads what it sends, too
            with open(tmp_path / 'reads.txt', 'a') as log:
                log.write(f'{os.environ["RANK"]} {options.get("mmap", False)}\n')
        return load(file, **options)

    monkeypatch.setattr(torch, 'load', counted)  # of the forked processes, too
    train_on(2, again)
    monkeypatch.undo()
    assert sorted((tmp_path / 'reads.txt').read_text().split('\n')) == ['', '0 True']
    assert len(np.load(tmp_path / 'losses.npy')) == 6  # three of the checkpoint, three new
    resumed = torch.load(tmp_path / 'epoch_2.pth')
    leaves = [tree_leaves([state['state_dict'], state['optimizer']]) for state in (resumed, whole)]
    same = [torch.equal(*pair) if isinstance(pair[0], torch.Tensor) else pair[0] == pair[1]
            for pair in zip(*leaves, strict=True)]
    assert all(same) and len(same) > 100

    vit = ViT(dict(embed_dim=24, depth=2, num_heads=2), img_size=64, patch_size=8, out_type='avg_featmap',
              init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(tmp_path / 'epoch_2.pth')))
    vit.init_weights()
    weights = result(tmp_path, 2)[1]
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, weights['backbone.blocks.1.mlp.fc2.weight'])


def test_sharded_weights_refuse_a_checkpoint_of_another_model(images, alone, tmp_path):
    cfg = config(images, tmp_path, batch=4, epochs=2, base='pretrain/vit_h14_1600e_fsdp.py')
    cfg.model.backbone.arch.depth = 3
    cfg.resume, cfg.load_from = True, str(alone / 'epoch_1.pth')
    with pytest.raises(Exception, match=r'the checkpoint is of another model: (.*\s)*.*blocks\.2\.'):
        train_on(2, cfg)


def test_clipping_by_the_norm_of_a_shard_is_refused(images, tmp_path):
    cfg = config(images, tmp_path, batch=4, epochs=2, base='pretrain/vit_h14_1600e_fsdp.py')
    cfg.optim_wrapper.clip_grad = dict(max_norm=1.0)
    with pytest.raises(Exception, match='clip_grad: FSDP would clip by the norm of a shard'):
        train_on(2, cfg)


def dist_train(folder: Path, name: str, *flags: str, processes: int = 2, **env: str) -> subprocess.CompletedProcess:
    """tools/dist_train.sh with a config of a folder, to its end."""
    env = {**os.environ, 'PORT': str(free_port()), 'PYTHONPATH': str(folder), 'OMP_NUM_THREADS': '1',
           'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', **env}
    return subprocess.run(
        ['bash', 'tools/dist_train.sh', str(folder / name), str(processes), '--work-dir', str(folder / 'work'), *flags],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400)


@pytest.mark.slow
def test_machines_agree_on_their_ranks_at_a_rendezvous(images, alone, tmp_path):
    """The same line on two "machines", in any order, trains as one process does; one of them writes the checkpoints."""
    cfg = config(images, tmp_path / 'work', batch=4, epochs=2)
    cfg.custom_imports = dict(imports=['test_many_processes'])
    cfg.dump(str(tmp_path / 'config.py'))
    env = dict(NNODES='2', RDZV_ENDPOINT=f'127.0.0.1:{free_port()}', PYTHONPATH=str(ROOT / 'tests'))
    with ThreadPoolExecutor() as pool:
        machines = [pool.submit(dist_train, tmp_path, 'config.py', processes=1, **env) for _ in range(2)]
    assert [machine.result().returncode for machine in machines] == [0, 0], machines[0].result().stdout[-3000:]
    weights = torch.load(tmp_path / 'work/epoch_2.pth', map_location='cpu')['state_dict']
    for name, weight in result(alone, 2)[1].items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_job_and_the_job_resumes(images, tmp_path):
    """tools/dist_train.sh: rank 1 fails in the second epoch; exit code and error tell it; --resume goes to the end."""
    (tmp_path / 'fault.py').write_text("""
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Fault(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4 and get_rank() == 1:
            raise RuntimeError('a fault of rank 1')
""")
    cfg = config(images, tmp_path / 'work', batch=4, epochs=2)
    cfg.train_dataloader.dataset.pipeline.pop()
    cfg.custom_imports = dict(imports=['fault'])
    cfg.custom_hooks = [dict(type='mmengine.Fault')]
    cfg.dump(str(tmp_path / 'faulty.py'))
    cfg.custom_hooks = []
    cfg.dump(str(tmp_path / 'sound.py'))
    died = dist_train(tmp_path, 'faulty.py')
    assert died.returncode != 0 and 'RuntimeError: a fault of rank 1' in died.stdout, died.stdout[-3000:]
    assert (tmp_path / 'work/epoch_1.pth').exists() and not (tmp_path / 'work/epoch_2.pth').exists()
    resumed = dist_train(tmp_path, 'sound.py', '--resume')
    assert resumed.returncode == 0, resumed.stdout[-3000:]
    assert (tmp_path / 'work/epoch_2.pth').exists()
