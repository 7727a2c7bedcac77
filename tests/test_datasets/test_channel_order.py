"""A classifier that tells red from blue, on every way by which an image reaches it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import MODELS, init_default_scope
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmpretrain.apis import get_model
from PIL import Image
from torch import Tensor, nn

from mae_mm.datasets.transforms import LoadResizeCenterCrop
from mae_mm.engine.data_check import check_data
from mae_mm.engine.loops.batches import build_dataset, build_loader

COLOURS = dict(red=(200, 30, 10), blue=(10, 30, 200))  # RGB; the labels are 1 and 0 by the folders' order
CONFIGS = ['demo/classification.py', 'linear/vit_b16_in1k.py', 'classification/vit_b16_in1k.py']


class Mean(nn.Module):
    """A backbone whose features are the mean colour."""

    def forward(self, imgs: Tensor) -> tuple[Tensor]:
        return (imgs.mean((2, 3)), )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for i, form in enumerate(('png', 'jpg', 'bmp')):
            Image.new('RGB', (60, 50 + i), colour).save(tmp_path / name / f'{i}.{form}')
    return tmp_path


@pytest.fixture(params=CONFIGS)
def cfg(request: pytest.FixtureRequest, folder: Path) -> Config:
    """A recipe of ours, with its preprocessor and pipelines, on two colours."""
    cfg = Config.fromfile(ROOT / 'configs' / request.param)
    init_default_scope('mmpretrain')
    MODELS.register_module(name='Mean', module=Mean, force=True)
    cfg.model = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='Mean'),
        head=dict(type='LinearClsHead', num_classes=2, in_channels=3, topk=(1,)))
    cfg.data_preprocessor.num_classes = 2
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset = dict(type='CustomDataset', data_root=str(folder), pipeline=loader.dataset.pipeline)
        loader.update(
            batch_size=6, num_workers=0, persistent_workers=False, pin_memory=False,
            sampler=dict(type='DefaultSampler'))
    return cfg


@pytest.fixture
def model(cfg: Config) -> nn.Module:
    model = get_model(cfg, pretrained=False)
    with torch.no_grad():
        model.head.fc.weight.copy_(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
        model.head.fc.bias.zero_()
    return model.eval()


def arrays(folder: Path) -> list[np.ndarray]:
    """The images as OpenMMLab's inferencers expect them: BGR; a view with negative strides, too."""
    rgb = [np.array(Image.open(path)) for path in sorted(folder.glob('*/*'))]
    return [img[..., ::-1] if i % 2 else np.ascontiguousarray(img[..., ::-1])[:, ::-1] for i, img in enumerate(rgb)]


def test_inferencers_take_names_and_arrays(model: nn.Module, folder: Path) -> None:
    names = [str(path) for path in sorted(folder.glob('*/*'))]
    labels = [int('red' in name) for name in names]
    infer, extract = ImageClassificationInferencer(model), FeatureExtractor(model)
    for inputs in (names, arrays(folder)):
        assert [result['pred_label'] for result in infer(inputs)] == labels
        assert [int(feature[0] > feature[2]) for feature, in extract(inputs)] == labels


@pytest.mark.parametrize('loader', ['train_dataloader', 'val_dataloader', 'test_dataloader'])
def test_loaders_of_the_recipe(cfg: Config, model: nn.Module, loader: str) -> None:
    config = cfg[loader]
    pipeline = config.dataset.pipeline
    config.dataset.pipeline = [step for step in pipeline if step.type != 'RandAugment']  # which inverts colours
    batch = next(iter(build_loader(config, build_dataset(config.dataset), seed=0)))
    labels = [int(sample.gt_label) for sample in batch['data_samples']]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1]
    assert [int(sample.pred_label) for sample in model.test_step(batch)] == labels


def test_a_preprocessor_that_swaps_the_channels_of_our_transforms_is_refused(cfg: Config) -> None:
    check_data(cfg)
    cfg.val_dataloader.dataset.pipeline[0] = dict(type='mae_mm.LoadResizeCenterCrop', size=224)
    cfg.data_preprocessor.to_rgb = True
    with pytest.raises(ValueError, match=r'val_dataloader.*mae_mm\.LoadResizeCenterCrop.* data_preprocessor\.to_rgb=F'):
        check_data(cfg, ('val_dataloader', ))


class Arrays(BaseDataset):
    """RGB arrays, as mmpretrain's CIFAR10 has them."""

    def load_data_list(self) -> list[dict]:
        return [dict(img=np.full((9, 9, 3), colour, np.uint8)) for colour in COLOURS.values()]


def pixel(results: dict) -> tuple[int, ...]:
    return tuple(results['inputs'][:, 4, 4].tolist())


def test_arrays_of_a_data_set_have_the_order_that_the_transform_names() -> None:
    """The same transform serves an inferencer, whose arrays are BGR all the same."""
    load = LoadResizeCenterCrop(8, array_order='rgb')
    assert [pixel(sample) for sample in Arrays(pipeline=[load])] == list(COLOURS.values())
    assert pixel(load(dict(img=np.full((9, 9, 3), COLOURS['red'][::-1], np.uint8)))) == COLOURS['red']
    swapped = Arrays(pipeline=[LoadResizeCenterCrop(8)])
    assert pixel(swapped[0]) == COLOURS['red'][::-1]
    with pytest.raises(ValueError, match="array_order is 'gbr'"):
        LoadResizeCenterCrop(8, array_order='gbr')


@pytest.mark.parametrize('channels, shape, want', [
    ('rgb', (9, 9), (5, 5, 5)), ('rgb', (9, 9, 1), (5, 5, 5)), ('rgb', (9, 9, 4), (9, 7, 5)),
    ('gray', (9, 9), (5, )), ('gray', (9, 9, 3), (7, )), ('gray', (9, 9, 4), (7, )),
    ('unchanged', (9, 9, 3), (9, 7, 5)), ('unchanged', (9, 9, 2), (5, 7)),
    ('unchanged', (9, 9, 5), (5, 7, 9, 11, 13))])
def test_arrays_get_the_channels_of_the_transform(channels: str, shape: tuple[int, ...], want: tuple[int]) -> None:
    img = np.empty(shape, np.uint8)
    img[:] = (5, 7, 9, 11, 13)[:shape[2]] if len(shape) == 3 else 5
    for view in (img, img[::-1, ::-1], np.asfortranarray(img)):
        assert pixel(LoadResizeCenterCrop(8, channels=channels)(dict(img=view))) == want


@pytest.mark.parametrize('img', [np.zeros((9, 9, 5), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros(9, np.uint8)])
def test_an_array_that_is_not_an_image_is_named(img: np.ndarray) -> None:
    with pytest.raises(ValueError, match=rf'{img.dtype} \({img.shape[0]}.*channels='):
        LoadResizeCenterCrop(8)(dict(img=img))
