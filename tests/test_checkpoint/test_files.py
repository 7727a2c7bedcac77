"""Files: only data is unpickled, damage is named, mmengine's own checkpoints are read and resumed."""

import argparse
import os
import pickle
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import HEADS, Call, assert_same, saved
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from safetensors.torch import save_file

from mae_mm.checkpoint import Checkpoint, allow_mmengine_objects, load_pretrained, read_checkpoint
from mae_mm.checkpoint import write_checkpoint as write
from mae_mm.checkpoint.files import MMENGINE_OBJECTS
from mae_mm.registry import DATASETS, MODELS


@pytest.mark.parametrize('call, name', [
    (Call(os.system, 'touch {}'), r'posix\.system'),
    (Call(eval, "open('{}', 'w')"), 'eval'),
    (Call(exec, "open('{}', 'w')"), 'exec'),
    (Call(partial(open, mode='w'), '{}'), r'functools\.partial'),
    (Call(getattr, HistoryBuffer, '__init__'), r'builtins.getattr\(HistoryBuffer,__init__\)'),
    (Call(getattr, OrderedDict, 'update'), r'builtins.getattr\(OrderedDict,update\)'),
    (Call(pickle.loads, b'N.'), r'pickle\.loads'),
])
@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_but_data_is_unpickled(make_vit: Callable, tmp_path: Path, call: Call, name: str, legacy: bool) -> None:
    victim = tmp_path / 'victim'
    function, args = call.call
    harmful = any('{}' in str(arg) for arg in args)
    call = Call(function, *(arg.format(victim) if isinstance(arg, str) else arg for arg in args))
    path = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=make_vit().state_dict(), meta=call), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=rf'evil\.pth was not loaded: it holds {name}, which is neither a tensor nor'):
        read_checkpoint(path)
    assert not victim.exists()
    torch.load(path, weights_only=False)
    assert victim.exists() == harmful  # a file that does nothing would prove nothing


@pytest.mark.parametrize('damage', [
    lambda data: data[:len(data) // 2], lambda data: data[:-100], lambda data: data[:9], lambda data: b'',
    lambda data: b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n', lambda data: b'<!DOCTYPE html>',
    lambda data: data[:8] + b'{' * 50, lambda data: b'\x80\x02' + bytes(range(256)),
])
@pytest.mark.parametrize('kind', ['torch', 'safetensors'])
def test_damaged_files(make_vit: Callable, tmp_path: Path, damage: Callable, kind: str) -> None:
    path, save = tmp_path / 'file.pth', torch.save if kind == 'torch' else save_file
    save(dict(make_vit().state_dict()), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf'file\.pth is not a checkpoint, or .*{path.stat().st_size:,} bytes'):
        read_checkpoint(path)


def test_other_things_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at /.*nowhere\.pth'):
        read_checkpoint(tmp_path / 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at /.*a folder with model\*\.safetensors'):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match='holds a list, not a dict of tensors'):
        read_checkpoint(saved([torch.zeros(1)], tmp_path / 'list.pth'))
    with pytest.raises(ValueError, match=r"format 'keras' is not one of mae_mm, mae, timm"):
        write(Checkpoint({}), tmp_path / 'x', 'keras')


def test_a_command_line_beside_the_weights_is_read(make_vit: Callable, tmp_path: Path) -> None:
    state = dict(make_vit().state_dict())
    path = saved(dict(model=state, args=argparse.Namespace(lr=1.0, output_dir='x'), epoch=3), tmp_path / 'release.pth')
    assert_same(read_checkpoint(path).tensors, state)


@pytest.fixture
def no_safe_globals() -> Iterator[None]:
    """Process-wide list of trusted objects: empty before and after."""
    torch.serialization.clear_safe_globals()
    yield
    torch.serialization.clear_safe_globals()


def mmengine_file(path: Path) -> Path:
    """A file with every kind of object that mmengine's Runner stores."""
    buffers = {'loss': HistoryBuffer([0.5, 0.25], [1, 1])}
    numbers = [np.float32(1), np.float64(1), np.int64(1), np.ones(2)]
    return saved(dict(message_hub=dict(log_scalars=buffers, runtime_info=numbers)), path)


@pytest.mark.parametrize('obj', [obj for obj in MMENGINE_OBJECTS if '.core.' not in str(obj)],
                         ids=lambda obj: str(obj[1] if isinstance(obj, tuple) else obj))
def test_every_allowed_object_is_needed(tmp_path: Path, no_safe_globals: None, obj: object) -> None:
    path = mmengine_file(tmp_path / 'x.pth')
    torch.serialization.add_safe_globals([other for other in MMENGINE_OBJECTS if other is not obj])
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    torch.serialization.add_safe_globals([obj])
    torch.load(path, weights_only=True)


def test_reading_leaves_the_process_wide_list_alone(make_vit: Callable, tmp_path: Path, no_safe_globals: None) -> None:
    path = saved(make_vit().state_dict(), tmp_path / 'x.pth')
    read_checkpoint(path)
    assert not torch.serialization.get_safe_globals()
    allow_mmengine_objects()
    read_checkpoint(path)
    assert set(torch.serialization.get_safe_globals()) == set(MMENGINE_OBJECTS)


@DATASETS.register_module()
class Images(torch.utils.data.Dataset):
    """Four images of noise."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, idx: int) -> dict:
        return dict(inputs=torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(idx)))


def test_what_the_runner_writes(tmp_path: Path, no_safe_globals: None) -> None:
    def runner(epochs: int, **options: object) -> Runner:
        return Runner.from_cfg(Config(dict(
            model=dict(
                type='mae_mm.MAE', neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
                backbone=dict(
                    type='mae_mm.ViT', arch=dict(embed_dim=32, depth=2, num_heads=2), img_size=32, patch_size=8)),
            train_dataloader=dict(
                dataset=dict(type='mae_mm.Images'), batch_size=2, num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs), work_dir=str(tmp_path), log_level='ERROR',
            default_scope='mmpretrain', experiment_name=f'run{epochs}',
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)), **options)))

    first = runner(1)
    first.train()
    path = tmp_path / 'epoch_1.pth'
    checkpoint = read_checkpoint(path)
    assert checkpoint.settings == dict(grid=(4, 4), mask_ratio=0.75, norm_pix_loss=True, **HEADS)
    model = MODELS.build(first.cfg.model)
    load_pretrained(model, path)
    assert_same(dict(first.model.state_dict()), dict(model.state_dict()))
    write(checkpoint, tmp_path / 'vit_mae', 'huggingface')  # heads are known

    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        runner(2, resume=True, load_from=str(path)).train()
    allow_mmengine_objects()
    second = runner(2, resume=True, load_from=str(path))
    second.train()
    assert (second.epoch, second.iter) == (2, 4)


def test_shards_are_joined(make_vit: Callable, tmp_path: Path) -> None:
    state = dict(make_vit().state_dict())
    names = list(state)
    for i, part in enumerate((names[:9], names[9:])):
        save_file({name: state[name] for name in part}, tmp_path / f'model-0000{i + 1}-of-00002.safetensors')
    assert_same(read_checkpoint(tmp_path).tensors, state)


@pytest.mark.parametrize('name', ['x.pth', 'x.safetensors'])
def test_a_written_file_is_whole_and_readable_by_others(make_vit: Callable, tmp_path: Path, name: str) -> None:
    (tmp_path / 'usual').touch()
    write(Checkpoint(dict(make_vit().state_dict())), tmp_path / 'new' / name, 'timm')
    assert [file.name for file in (tmp_path / 'new').iterdir()] == [name]
    assert (tmp_path / 'new' / name).stat().st_mode == (tmp_path / 'usual').stat().st_mode


def test_urls(make_vit: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))
    (tmp_path / 'www').mkdir()
    state = dict(make_vit().state_dict())
    save_file(state, tmp_path / 'www' / 'model.safetensors')
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / 'www'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f'http://127.0.0.1:{server.server_port}/model.safetensors'
        assert_same(read_checkpoint(url).tensors, state)
        server.shutdown()
    assert_same(read_checkpoint(url).tensors, state)  # from the cache
