"""The config in a checkpoint is read as data, and builds nothing but types of this project."""

from pathlib import Path

import pytest
from helpers.checkpoints import saved
from mmengine.config import Config

from mae_mm.checkpoint.settings import settings_of_config_text, stored_config
from mae_mm.checkpoint.trust import check_settings

PIPELINE = [dict(type='mae_mm.LoadResizeCenterCrop', size=[32, 48])]
MODEL = dict(
    type='mae_mm.MAE', backbone=dict(type='mae_mm.ViT', arch=dict(embed_dim=8)), neck=dict(type='mae_mm.MAEDecoder'))


def stored(path: Path, model: dict = MODEL, pipeline: list = PIPELINE) -> Path:
    config = Config(dict(model=model, val_dataloader=dict(dataset=dict(type='X', pipeline=pipeline)), lr=0.1))
    return saved(dict(meta=dict(cfg=config.pretty_text), state_dict={}), path / 'model.pth')


def test_model_and_pipeline_are_those_of_the_training(tmp_path: Path) -> None:
    cfg = stored_config(stored(tmp_path))
    assert cfg.to_dict() == dict(model=MODEL, val_dataloader=dict(dataset=dict(pipeline=PIPELINE)))


def test_nothing_is_executed(tmp_path: Path) -> None:
    text = f'import os\nmodel = open({str(tmp_path / "made")!r}, "w")\nval_dataloader = dict()\n'
    with pytest.raises(ValueError, match=r'model\.pth has no config that can be used; give it with --config'):
        stored_config(saved(dict(meta=dict(cfg=text)), tmp_path / 'model.pth'))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(('model', 'pipeline'), [
    ({**MODEL, 'target': dict(type='os.system')}, PIPELINE),
    ({**MODEL, 'backbone': dict(type='mmpretrain.TIMMBackbone')}, PIPELINE),
    ({**MODEL, 'backbone': dict(type='mae_mm.checkpoint.files.write_content')}, PIPELINE),
    (MODEL, [*PIPELINE, dict(type='Compose', transforms=[])]), (MODEL, [dict(type=['mae_mm.ViT'])])])
def test_other_types_need_a_config(tmp_path: Path, model: dict, pipeline: list) -> None:
    with pytest.raises(ValueError, match=r'model\.pth: types of other libraries \(.*--config'):
        stored_config(stored(tmp_path, model, pipeline))


@pytest.mark.parametrize(('content', 'message'), [
    (dict(state_dict={}), 'model.pth does not contain its config; give it with --config'),
    (dict(meta=None), 'model.pth does not contain its config'),
    (dict(meta=dict(cfg='model = dict(')), 'model.pth has no config that can be used'),
    (dict(meta=dict(cfg='x = 1')), 'model.pth has no config that can be used'),
    (dict(meta=dict(cfg="model = dict(type='ImageClassifier', neck=dict(), head=dict())")), 'of ImageClassifier'),
    (dict(meta=dict(cfg="model = dict(type='EncoderDecoder', decode_head=dict())")), 'of EncoderDecoder'),
])
def test_files_without_such_a_config(tmp_path: Path, content: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:
        stored_config(saved(content, tmp_path / 'model.pth'))
    assert message in str(error.value)


def test_names_of_bands(tmp_path: Path) -> None:
    names = ['blue', 'green', 'red', 'nir']
    for in_chans, expected in ((names, names), (4, None)):
        text = Config(dict(model={**MODEL, 'backbone': dict(
            type='mae_mm.ViT', arch='tiny', in_chans=in_chans)})).pretty_text
        assert settings_of_config_text(text).get('bands') == expected
    with pytest.raises(ValueError, match=r"bands=\['blue', 3\], which is not a valid bands"):
        check_settings(dict(bands=['blue', 3]))
