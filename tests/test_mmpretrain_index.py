"""mmpretrain finds our models by name, offline, and reads the released weights of those that have some."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.checkpoints import canonical
from helpers.tiny import DECODER, ENCODER
from mmengine.fileio import load
from mmpretrain import get_model, list_models

from mae_mm.checkpoint.contents import write_checkpoint
from mae_mm.mmpretrain_index import RELEASE


def tiny() -> dict:
    """The sizes of the fixture make_mae, as options of `get_model`, which changes them."""
    return dict(backbone={**ENCODER, 'arch': {'_delete_': True, **ENCODER['arch']}}, neck=dict(DECODER))



def test_models_of_all_metafiles_are_listed() -> None:
    models = [model for path in load(ROOT / 'model-index.yml')['Import'] for model in load(ROOT / path)['Models']]
    assert {model['Name'] for model in models} <= set(list_models())
    assert list_models('mae_vit_b16') == ['mae_vit_b16_1600e']
    assert {'vit_b16_in1k', 'linear_vit_b16_in1k'} <= set(list_models(task='Image Classification'))


@pytest.mark.integration
def test_mmpretrain_may_be_imported_first() -> None:
    """In this process, mae_mm was."""
    code = 'import mmpretrain.apis, mae_mm; print(mmpretrain.apis.ModelHub.has("mae_vit_b16_1600e"))'
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env={**os.environ, 'PYTHONPATH': str(ROOT)},
                         capture_output=True, text=True, check=True)
    assert out.stdout == 'True\n'


def test_models_are_built_by_name() -> None:
    model = get_model('mae_vit_b16_1600e', **tiny())
    assert type(model).__module__ == 'mae_mm.models.mae' and model.backbone.embed_dim == 32
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):  # nobody released one of it
        classifier = get_model('vit_b16_in1k', pretrained=True, backbone=tiny()['backbone'], head=dict(in_channels=32))
    assert classifier.head.num_classes == 1000


def test_released_weights_come_through_the_checkpoint_contract(
    make_mae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    monkeypatch.setattr('mae_mm.checkpoint.hub.get_hf_file_metadata', refuse)
    with pytest.raises(ValueError, match=r'mae_vit_base_full was not fetched: .* the same command continues it'):
        get_model('mae_vit_b16_1600e', pretrained=True, **tiny())
    url, mae = f'{RELEASE}vit_base_full.pth', make_mae()
    name = f'{hashlib.sha256(url.encode()).hexdigest()[:12]}-mae_pretrain_vit_base_full.pth'  # as if it was fetched
    write_checkpoint(canonical(mae), tmp_path / 'checkpoints' / name, 'mae')
    model = get_model('mae_vit_b16_1600e', pretrained=True, **tiny())
    assert model.state_dict().keys() == mae.state_dict().keys()
    for key, value in mae.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def refuse(*_: object, **__: object) -> None:
    raise ConnectionError('no network')
