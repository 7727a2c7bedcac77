import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config

from mae_mm.benchmark.images import draw_jpegs
from mae_mm.models.pca import fit_pca, fit_to_images
from mae_mm.registry import MODELS


def test_pca_by_hand():
    """Four points on a line through (1, 1) along (3, 4) / 5."""
    basis = fit_pca(torch.tensor([[1.0], [-1.0], [2.0], [-2.0]]) * torch.tensor([0.6, 0.8]) + 1)
    assert basis['mean'].tolist() == pytest.approx([1, 1])
    assert basis['components'][0].abs().tolist() == pytest.approx([0.6, 0.8])
    assert basis['variances'].tolist() == pytest.approx([10 / 3, 0], abs=1e-6)


@pytest.fixture
def demo_config(tmp_path) -> Config:
    draw_jpegs(tmp_path / 'imgs', 12, 40, 48)
    return Config(dict(
        model=dict(
            type='mae_mm.MAE', data_preprocessor=dict(type='mae_mm.ImagePreprocessor'),
            backbone=dict(type='mae_mm.ViT', arch=dict(embed_dim=32, depth=1, num_heads=2), img_size=32, patch_size=4),
            neck=dict(type='mae_mm.MAEDecoder', embed_dim=16, depth=1, num_heads=2),
            target=dict(type='mae_mm.PCATarget', num_values=9, fitted=str(tmp_path / 'pca.pth'))),
        train_dataloader=dict(dataset=dict(
            type='mae_mm.ImageFolder', data_root=str(tmp_path / 'imgs'),
            pipeline=[dict(type='mae_mm.LoadRandomResizedCrop', size=32)]))))


def test_components_fitted_to_a_folder_of_images(demo_config):
    model = MODELS.build(demo_config.model)
    with pytest.raises(FileNotFoundError, match=r'python tools/fit_pca\.py .* writes it'):
        model.init_weights()
    basis = fit_to_images(demo_config, num_images=12)
    torch.save(basis, demo_config.model.target.fitted)
    assert basis['components'].shape == (48, 48) and (basis['variances'].diff() <= 0).all()
    share = basis['variances'].cumsum(0) / basis['variances'].sum()
    assert share[8] > 0.8  # images are smooth
    model = MODELS.build(demo_config.model)
    model.init_weights()
    assert torch.equal(model.target_generator.components, basis['components'][:9])
    demo_config.model.backbone.patch_size = 8
    with pytest.raises(ValueError, match=r'48 components of 48 values do not fit .* of 192 values'):
        MODELS.build(demo_config.model).init_weights()
    with pytest.raises(ValueError, match='too few'):
        fit_to_images(demo_config, num_images=2)


def test_the_same_images_give_the_same_components(demo_config):
    first, second = (fit_to_images(demo_config) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_what_training_leaves_out_is_not_fitted(demo_config, tmp_path):
    """Patches without data would be zeros, here far from all others; a broken file is no reason to stop."""
    images = 100 + np.random.default_rng(0).normal(size=(12, 32, 32, 1)).astype(np.float32)
    images[:, :10] = np.nan
    (tmp_path / 'tiles').mkdir()
    for i, img in enumerate(images):
        np.save(tmp_path / f'tiles/{i}.npy', img)
    (tmp_path / 'tiles/broken.npy').write_bytes(b'no array')
    demo_config.model.data_preprocessor.update(mean=[0], std=[1])
    demo_config.train_dataloader.dataset.update(data_root=str(tmp_path / 'tiles'), extensions=['.npy'], pipeline=[
        dict(type='mae_mm.LoadRandomResizedCrop', size=32, scale=(1, 1), ratio=(1, 1), dtype='float32')])
    basis = fit_to_images(demo_config)
    assert (basis['mean'] - 100).abs().max() < 1 and basis['variances'].max() < 10


def test_more_components_than_values_of_a_patch():
    with pytest.raises(ValueError, match=r'num_values=500, and a patch has only 320 values'):
        MODELS.build(dict(type='mae_mm.PCATarget', num_values=500, patch_size=8, in_chans=5))


def test_fit_pca_tool(demo_config, tmp_path, monkeypatch, capsys):
    sys.path.insert(0, 'tools')
    import fit_pca as tool

    demo_config.dump(tmp_path / 'config.py')
    for out in ([], ['--out', str(tmp_path / 'out.pth')]):  # by default where the config looks for it
        monkeypatch.setattr(sys, 'argv', ['fit_pca.py', str(tmp_path / 'config.py'), '--images', '12', *out])
        tool.main()
        assert '32 of 48 components hold' in capsys.readouterr().out
    assert set(torch.load(tmp_path / 'out.pth')) == {'mean', 'components', 'variances'}
    MODELS.build(demo_config.model).init_weights()
    demo_config.model.target.fitted = None
    demo_config.dump(tmp_path / 'config.py')
    monkeypatch.setattr(sys, 'argv', ['fit_pca.py', str(tmp_path / 'config.py')])
    with pytest.raises(SystemExit):
        tool.main()
    assert 'sets no model.target.fitted' in capsys.readouterr().err
