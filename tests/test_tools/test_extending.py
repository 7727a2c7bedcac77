"""The worked examples of docs/extending.md, in a copy of the project, as a contributor would add them."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.tiny import ENCODER

from mae_mm.models.mae import MAE

pytestmark = pytest.mark.integration

PAGE = (ROOT / 'docs/extending.md').read_text()
IGNORED = shutil.ignore_patterns('.mim', '__pycache__', 'benchmark', '.pytest_cache')

NAMES = """
from mae_mm.engine.runner import load_config
from mae_mm.registry import DATASETS, MODELS


def test_names_resolve_in_configs():
    assert MODELS.build(load_config('coarse.py').model).neck.decoder_pred.out_features == 48
    assert DATASETS.get('mae_mm.CSVImages') is not None
"""


def blocks() -> Iterator[tuple[str, str]]:
    """Each block of Python with the file that the text before it names last."""
    parts = re.split(r'```python\n(.*?)```', PAGE, flags=re.DOTALL)
    for before, code in zip(parts[::2], parts[1::2], strict=False):
        yield re.findall(r'`([\w/]+\.py)`', before)[-1], code


@pytest.fixture(scope='module')
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, with all examples."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('mae_mm', 'tests', 'configs'):
        shutil.copytree(ROOT / name, folder / name, ignore=IGNORED)
    shutil.copy(ROOT / 'pyproject.toml', folder)
    for name, code in blocks():
        with open(folder / name, 'a') as file:
            file.write(f'\n\n{code}')
    return folder


def test_every_example_passes_its_test(clone: Path) -> None:
    (clone / 'tests/test_names.py').write_text(NAMES)
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-rp', '-p', 'no:cacheprovider',
         '-k', 'torchvision or round_trip or coarse or labels_and_paths or names_resolve',
         'tests/test_checkpoint/test_foreign.py', 'tests/test_checkpoint/test_contents.py',
         'tests/test_models/test_targets.py', 'tests/test_datasets/test_csv_images.py', 'tests/test_names.py'],
        cwd=clone, text=True, capture_output=True,
        env={**os.environ, 'PYTHONPATH': f'{clone}:{clone}/tests', 'OMP_NUM_THREADS': '1'})
    passed = re.findall(r'^PASSED \S+::(\S+)', done.stdout, re.MULTILINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {'test_torchvision_gives_the_same_features', 'test_round_trip[torchvision-full-dtype0]',
            'test_coarse_target', 'test_labels_and_paths', 'test_names_resolve_in_configs'} <= {*passed}


def test_the_host_starts_from_the_checkpoint(make_mae: Callable[..., MAE], tmp_path: Path) -> None:
    (tmp_path / 'counter.py').write_text(dict(blocks())['counter.py'])
    spec = importlib.util.spec_from_file_location('counter', tmp_path / 'counter.py')
    counter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(counter)
    mae = make_mae()
    torch.save(dict(state_dict=mae.state_dict()), tmp_path / 'mae.pth')
    model = counter.build_counter(str(tmp_path / 'mae.pth'), **ENCODER)
    assert torch.equal(model.backbone.blocks[0].attn.qkv.weight, mae.backbone.blocks[0].attn.qkv.weight)
    imgs = torch.randn(2, 3, 64, 32)
    assert model(imgs).shape == (2, )
    model(imgs, torch.tensor([3.0, 1.0]), mode='loss')['loss'].backward()
    assert model.backbone.patch_embed.proj.weight.grad.abs().sum() > 0
