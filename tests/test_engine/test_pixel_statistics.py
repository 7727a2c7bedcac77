"""tools/pixel_statistics.py on folders of images, and the training that follows."""

from pathlib import Path

import numpy as np
import pytest
from helpers.pixels import NAMES, ramp, write_geotiff
from helpers.reliability import save_images
from helpers.tools import run_tool

from mae_mm.engine.pixel_statistics import pixel_statistics
from mae_mm.engine.runner import load_config

EMPTY = 65535


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six bands, the first of 100 to 300, a tenth without data; one file of four bands, one that is broken."""
    rng, folder = np.random.default_rng(0), tmp_path / 'tiles'
    folder.mkdir()
    for i in range(12):
        img = rng.integers(100, 301, (40, 48, 6)).astype(np.uint16) * np.arange(1, 7, dtype=np.uint16)
        img[:4] = EMPTY
        write_geotiff(folder / f'{i}.tif', img, nodata=EMPTY)
    write_geotiff(folder / 'four.tif', ramp(4))
    (folder / 'zero.tif').write_bytes(b'II*\0')
    return folder


def test_a_folder_and_its_config(folder: Path, tmp_path: Path, capsys) -> None:
    pixel_statistics(str(folder), None, 0, {}, 'configs/demo/mae_pretrain.py', str(tmp_path / 'mine.py'))
    out = capsys.readouterr().out
    assert '12 images of 6 bands; types: float32 (12)' in out and '10.00%' in out
    assert '1 images have 4 bands' in out and '1 images cannot be read, such as ' in out and 'zero.tif' in out
    cfg = load_config(str(tmp_path / 'mine.py'))
    np.testing.assert_allclose(cfg.model.data_preprocessor.mean, 200 * np.arange(1, 7), rtol=0.01)
    np.testing.assert_allclose(cfg.model.data_preprocessor.std, 58 * np.arange(1, 7), rtol=0.01)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        step, = loader.dataset.pipeline
        assert (step.dtype, step.bands, step.size) == ('float32', [*NAMES], 48)
    assert cfg.model.backbone.in_chans == [*NAMES]
    write_geotiff(folder / 'turned.tif', ramp(), NAMES[::-1])
    pixel_statistics(str(folder), None, 0, {}, 'configs/demo/mae_pretrain.py', str(tmp_path / 'mine.py'))
    out = capsys.readouterr().out
    assert 'the names of the bands differ' in out and '1 images: swir2, swir1, nir' in out and '12 images: blue' in out
    assert load_config(str(tmp_path / 'mine.py')).model.backbone.in_chans == 6


def test_extensions_of_the_base_do_not_stay(folder: Path, tmp_path: Path, capsys) -> None:
    """A config for .npy files, and TIFFs."""
    out = tmp_path / 'mine.py'
    pixel_statistics(str(folder), None, 0, {}, 'configs/demo/mae_pretrain_multiband.py', str(out))
    cfg = load_config(str(out))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert {'.tif', '.png'} <= {*loader.dataset.extensions}


def test_options(folder: Path, tmp_path: Path, capsys) -> None:
    """Bands by name, a number without data, another extension; a sample; photographs need nothing."""
    pixel_statistics(str(folder), 5, 0, dict(bands=['nir', 1], nodata=300.0), 'configs/mae_pretrain.py', None)
    out = capsys.readouterr().out
    assert '5 images of 2 bands' in out and "bands=['nir', 1], nodata=300.0" in out
    (tmp_path / 'npy').mkdir()
    for i in range(3):
        np.save(tmp_path / 'npy' / f'{i}.npy', ramp())
    pixel_statistics(str(tmp_path / 'npy'), 9, 0, {}, 'configs/mae_pretrain.py', str(tmp_path / 'mine.py'))
    assert "dtype='uint16', bands=6" in capsys.readouterr().out
    assert '.npy' in load_config(str(tmp_path / 'mine.py')).train_dataloader.dataset.extensions
    pixel_statistics(str(save_images(tmp_path / 'photos', 3)), 9, 0, {}, 'configs/mae_pretrain.py', None)
    assert 'nothing: they are photographs' in capsys.readouterr().out


@pytest.mark.integration
def test_from_a_folder_to_a_training(folder: Path, tmp_path: Path, capsys) -> None:
    """The commands of docs/pixels.md: no-data, a file of other bands and a broken one, and a loss at the end."""
    for i in range(12, 100):
        (folder / f'{i}.tif').write_bytes((folder / f'{i % 12}.tif').read_bytes())
    run_tool('pixel_statistics', folder, '--workers', '1', '--config', 'configs/demo/mae_pretrain.py', '--out',
             tmp_path / 'mine.py')
    run_tool(
        'train', tmp_path / 'mine.py', '--data', folder, '--work-dir', tmp_path / 'run', '--cfg-options',
        'train_cfg.max_epochs=1', 'param_scheduler=[]', 'train_dataloader.batch_size=8', 'model.backbone.arch.depth=1',
        'model.backbone.arch.embed_dim=24', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.persistent_workers=False',
        'train_dataloader.dataset.cache=none', 'default_hooks.bad_data.max_share=0.1')
    assert 'the patch mean' in capsys.readouterr().out and (tmp_path / 'run' / 'panel.png').exists()
    assert 'four.tif' in (tmp_path / 'run' / 'bad_images.txt').read_text()
