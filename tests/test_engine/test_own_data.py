"""`tools/train.py --data`: what is trained on, what is held out, and what a resumed run keeps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.pixels import blocks, write_geotiff
from helpers.tools import DEMO, run_tool, tiny
from mmengine.config import Config
from PIL import Image

from mae_mm.checkpoint import read_checkpoint
from mae_mm.datasets.configs import LOADERS
from mae_mm.datasets.find import find_images
from mae_mm.datasets.pack import pack
from mae_mm.engine.loops.batches import build_dataset
from mae_mm.engine.own_data import reader_of, use_data, use_statistics
from mae_mm.engine.runner import load_config


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of 16 pixels in 12 nested folders; red is 200, green 0 or 100, blue random."""
    root = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for i in range(96):
        pixels = np.stack([np.full((16, 16), 200), np.full((16, 16), i % 2 * 100), rng.integers(0, 256, (16, 16))], -1)
        path = root / f'{i % 3}' / f'flight {i % 12}' / f'{i:02}.{("png", "webp", "tif")[i % 3]}'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path, **({'lossless': True} if path.suffix == '.webp' else {}))
    return root


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    cfg = load_config(DEMO, {'train_dataloader.num_workers': 0})
    cfg.work_dir = str(tmp_path / 'run')
    return cfg


def sides(cfg: Config) -> list[list[str]]:
    """Names that each loader reads."""
    return [[*build_dataset(dict(cfg[loader].dataset, cache='none')).relative_names()] for loader in LOADERS]


@pytest.mark.parametrize('packed', [False, True])
def test_a_part_is_held_out(cfg: Config, photos: Path, tmp_path: Path, packed: bool) -> None:
    if packed:
        pack(str(photos), str(tmp_path / 'tars'), shard_gb=1e-5)
    use_data(cfg, str(tmp_path / 'tars' if packed else photos))
    train, val, test = sides(cfg)
    assert (len(train), len(val)) == (64, 32) and val == test
    assert len({*train, *val}) == 96
    assert (tmp_path / 'run/held_out.txt').read_text().splitlines() == val
    assert build_dataset(dict(cfg.val_dataloader.dataset))[0]['inputs'].shape == (3, 48, 48)


def test_whole_files_are_held_out_of_tiles(tmp_path: Path) -> None:
    """Few, large files; pictures beside them are not taken."""
    (tmp_path / 'slides').mkdir()
    for i in range(3):
        write_geotiff(tmp_path / f'slides/{i}.tif', blocks(60, 80 + 80 * i))
    Image.fromarray(blocks(60, 80)).save(tmp_path / 'slides/thumbnail.jpg')
    cfg = load_config('configs/own_data/mae_tiles.py', {
        f'{loader}.dataset.size': 40 for loader in LOADERS} | {'train_dataloader.dataset.per_file': 5})
    cfg.work_dir = str(tmp_path / 'run')
    use_data(cfg, str(tmp_path / 'slides'))
    train, val, test = sides(cfg)
    assert (len(train), len(val)) == (2, 1) and val == test and sorted(train + val) == ['0.tif', '1.tif', '2.tif']
    datasets = [build_dataset(dict(cfg[loader].dataset)) for loader in LOADERS[:2]]
    assert len(datasets[0]) == 10 and [type(one).__name__ for one in datasets] == ['TiledImages'] * 2
    assert all(one[0]['inputs'].shape == (3, 64, 64) for one in datasets)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no image'):
        use_data(cfg, str(tmp_path / 'empty'))


def test_folders_stay_together(cfg: Config, photos: Path) -> None:
    use_data(cfg, str(photos), split_by='folder')
    train, val, _ = ({str(Path(name).parent) for name in side} for side in sides(cfg))
    assert len(train) == 8 and len(val) == 4 and not train & val


def test_a_resumed_run_keeps_its_lists(cfg: Config, photos: Path, tmp_path: Path) -> None:
    root = tmp_path / 'photos'
    root.symlink_to(photos)
    use_data(cfg, str(root))
    before = sides(cfg)
    root.unlink()
    root.mkdir()
    for name in find_images(photos):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(photos / name)
    for i in range(96):
        (root / f'added {i}.png').symlink_to(photos / before[0][0])
    cfg.resume = True
    use_data(cfg, str(root))
    assert sides(cfg) == before
    cfg.resume = False
    use_data(cfg, str(root))
    assert len(sides(cfg)[0]) == 160


def test_held_out_images_elsewhere(cfg: Config, photos: Path) -> None:
    use_data(cfg, str(photos / '0'), str(photos / '1'))
    assert list(map(len, sides(cfg))) == [32, 32, 32] and not Path(cfg.work_dir).exists()


def test_kind_of_data(photos: Path, tmp_path: Path) -> None:
    pack(str(photos), str(tmp_path / 'tars'), shard_gb=1)
    kinds = [reader_of(str(path), '--data')['type'] for path in (
        photos, tmp_path / 'tars', next((tmp_path / 'tars').glob('*.tar')), tmp_path / 'tars/*.tar', 's3://b/a.tar')]
    assert kinds == ['mae_mm.ImageFolder', *4 * ['mae_mm.ImageTar']]


def test_statistics_of_the_training_images(cfg: Config, photos: Path, tmp_path: Path) -> None:
    use_data(cfg, str(photos))
    use_statistics(cfg)
    mean, std = (np.array(cfg.model.data_preprocessor[key]) for key in ('mean', 'std'))
    assert mean == pytest.approx([200, 50, 127.5], abs=8) and std == pytest.approx([1, 50, 70], abs=10)
    cfg.resume = True
    file = tmp_path / 'run/statistics.json'
    file.write_text(json.dumps(dict(mean=[1, 2, 3], std=[4, 5, 6], images=7)))
    use_statistics(cfg)
    assert cfg.model.data_preprocessor.mean == [1, 2, 3] and cfg.model.data_preprocessor.std == [4, 5, 6]
    file.unlink()
    with pytest.raises(ValueError, match='began without'):
        use_statistics(cfg)


@pytest.mark.parametrize(('data', 'val_data', 'error', 'message'), [
    ('nowhere', None, FileNotFoundError, r'--data .*nowhere: no such file or folder'),
    ('empty', None, FileNotFoundError, r'empty: no image'),
    ('photos/0', None, ValueError, r'32 images .* too few'),
    ('photos', 'photos', ValueError, r'--val-data .* one contains the other'),
    ('photos', 'photos/0', ValueError, r'one contains the other'),
    ('photos/0', 'photos', ValueError, r'one contains the other'),
    ('photos', 'link/1', ValueError, r'one contains the other'),
    ('photos/0', 'nowhere', FileNotFoundError, r'--val-data .*nowhere'),
])
def test_mistakes(
    cfg: Config, photos: Path, tmp_path: Path, data: str, val_data: str | None, error: type, message: str,
) -> None:
    (tmp_path / 'empty').mkdir()
    for name in ('photos', 'link'):
        (tmp_path / name).symlink_to(photos)
    with pytest.raises(error, match=message):
        use_data(cfg, str(tmp_path / data), val_data and str(tmp_path / val_data))


def test_only_configs_of_pretraining(photos: Path) -> None:
    cfg = load_config(str(ROOT / 'configs/demo/classification.py'))
    for call in (lambda: use_data(cfg, str(photos)), lambda: use_statistics(cfg)):
        with pytest.raises(ValueError, match=r'is for pre-training.*trains ImageClassifier'):
            call()


def test_one_command_from_a_folder(photos: Path, tmp_path: Path) -> None:
    options = [one for one in tiny(photos, **{'train_cfg.max_epochs': 2}) if 'data_root' not in one]
    run_tool('train', DEMO, '--data', photos, '--own-statistics', '--work-dir', tmp_path, *options)
    dumped = Config.fromfile(tmp_path / 'mae_pretrain.py')
    assert dumped.model.data_preprocessor.mean[0] == pytest.approx(200, abs=1)
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert '64 to train on, 32 held out by image' in log and 'mean [' in log
    run_tool('test', tmp_path / 'mae_pretrain.py', tmp_path / 'epoch_2.pth', '--out', tmp_path / 'test.json')
    tested = json.loads((tmp_path / 'test.json').read_text())['recon/loss']
    last = [json.loads(line) for line in (tmp_path / 'curve.jsonl').read_text().splitlines()][-1]
    assert tested == pytest.approx(last['recon/loss'], rel=1e-3)


def test_pretraining_is_continued_on_other_images(photos: Path, tmp_path: Path) -> None:
    """The demo's recipe, from a checkpoint with and without its decoder: the encoder is the file's in both."""
    options = [one for one in tiny(photos, **{'train_cfg.max_epochs': 1}) if 'data_root' not in one]
    run_tool('train', DEMO, '--data', photos, '--work-dir', tmp_path / 'first', *options, 'param_scheduler=[]')
    full = tmp_path / 'first/epoch_1.pth'
    run_tool('convert_checkpoint', full, tmp_path / 'encoder.pth', '--to', 'mae_mm', '--encoder-only')
    still = ['optim_wrapper.optimizer.lr=0', 'param_scheduler=[]']
    weights = {'first': read_checkpoint(full).tensors}
    for start in (full, tmp_path / 'encoder.pth'):
        work_dir = tmp_path / start.stem
        run_tool('train', 'configs/demo/mae_continue.py', '--data', photos, '--pretrained', start,
                 '--work-dir', work_dir, *options, *still)
        weights[start.stem] = read_checkpoint(work_dir / 'epoch_1.pth').tensors
        assert ('THE DECODER IS NEW' in next(work_dir.glob('*/*.log')).read_text()) == (start != full)
    same = {stem: {name for name, value in tensors.items() if torch.equal(value, weights['first'][name])}
            for stem, tensors in weights.items()}
    assert same['epoch_1'] == same['first']
    assert {name for name in same['first'] if 'decoder' not in name and name != 'mask_token'} <= same['encoder']
    assert 'decoder_pred.weight' not in same['encoder']
