"""One run of a comparison."""

from pathlib import Path

import numpy as np
from helpers import ROOT
from mmengine.config import Config
from mmengine.dataset import Compose
from PIL import Image

from mae_mm.datasets.leaks import FILE, load_fingerprints
from mae_mm.engine import runner as launch
from mae_mm.transfer.runs import last_scalars, make_run, place
from mae_mm.transfer.types import Job, Metric
from mae_mm.visualization.panels import picture_at


def test_a_run_trains_reports_and_returns_the_last_validation(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 50, 3), dtype=np.uint8)
    (tmp_path / 'images').mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'images/{i:02}.jpg')
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    cfg = launch.load_config(str(ROOT / 'configs/demo/mae_pretrain.py'), {
        **{f'{loader}.dataset.data_root': str(tmp_path / 'images') for loader in loaders},
        **{f'{loader}.num_workers': 0 for loader in loaders}, 'train_dataloader.batch_size': 12,
        'model.backbone.arch': dict(embed_dim=24, depth=1, num_heads=2), 'model.neck.embed_dim': 24,
        'train_cfg.max_epochs': 1, 'param_scheduler': [], 'default_hooks.logger.interval': 1,
        'experiment_name': tmp_path.name})  # loggers of a process are kept by this name
    (tmp_path / 'run').mkdir()
    cfg, reported = place(cfg, tmp_path / 'run', 3), []
    result = make_run(Job('run', cfg, {'recon/loss': Metric('loss', 100.0)}), reported.append)
    assert (result['train_images'], result['val_images'], reported[0], cfg.randomness.seed) == (24, 24, 0.5, 3)
    assert result['metrics'] == {'recon/loss': 100 * last_scalars(tmp_path / 'run')['recon/loss']}
    assert '  loss ' in (tmp_path / 'run/log.txt').read_text()
    assert len(load_fingerprints(tmp_path / 'run' / FILE).names) == 24  # of the images of a real pre-training


def test_unreadable_images_do_not_end_a_run(tmp_path: Path):
    """One of either side, as in the training of `tools/train.py`."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        path = tmp_path / f'images/{"val" if i % 2 else "train"}/{i % 4}/{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for broken in (tmp_path / 'images').glob('*/[01]/0[01].png'):
        broken.write_bytes(broken.read_bytes()[:60])
    cfg = launch.load_config(str(ROOT / 'configs/demo/classification.py'))
    for side in ('train', 'val'):
        dataset = cfg[f'{side}_dataloader'].dataset
        cfg[f'{side}_dataloader'].dataset = dict(
            type='CustomDataset', data_root=str(tmp_path / 'images' / side), pipeline=dataset.pipeline)
    cfg.merge_from_dict({
        'model.backbone.arch': dict(embed_dim=24, depth=1, num_heads=2),
        'model.head': dict(num_classes=2, in_channels=24),
        'data_preprocessor.num_classes': 2, 'train_dataloader.batch_size': 4, 'train_cfg': dict(max_epochs=1),
        'param_scheduler': [], 'experiment_name': tmp_path.name})
    cfg.train_cfg.val_interval, cfg.val_evaluator = 1, dict(type='Accuracy', topk=1)
    (tmp_path / 'run').mkdir()
    result = make_run(Job('run', place(cfg, tmp_path / 'run', 0), {'accuracy/top1': Metric('top-1', 1.0)}), print)
    assert result['val_images'] == 12 and 0 <= result['metrics']['accuracy/top1'] <= 100
    log = (tmp_path / 'run/log.txt').read_text()
    assert '00.png' in log and '01.png' in log and log.count('replaced by another image') >= 2


def test_a_run_starts_from_the_newest_checkpoint_of_a_folder(tmp_path):
    (tmp_path / 'last_checkpoint').write_text(f'{tmp_path}/epoch_3.pth\n')
    started = []
    job = Job('run', Config(dict(work_dir=str(tmp_path))), {}, str(tmp_path),
              measure=lambda cfg, path: started.append(path))
    make_run(job, print)
    make_run(job._replace(pretrained='mae.pth'), print)
    assert started == [f'{tmp_path}/epoch_3.pth', 'mae.pth']


def test_what_predictions_are_drawn_on(tmp_path: Path):
    """A photograph, as it is; of six bands of 16 bits red, green and blue, stretched."""
    Image.new('RGB', (8, 6), (1, 2, 3)).save(tmp_path / 'a.png')
    plain = Compose([dict(type='mae_mm.LoadImage', dtype='uint8')])
    assert picture_at(str(tmp_path / 'a.png'), plain).tolist() == [[[1, 2, 3]] * 8] * 6
    img = np.zeros((101, 2, 4), np.uint16)
    img[..., 2] = 500 + 3 * np.arange(101)[:, None]
    np.save(tmp_path / 'a.npy', img)
    bands = Compose([dict(type='mae_mm.LoadImage', bands=4)])
    shown = picture_at(str(tmp_path / 'a.npy'), bands, ['blue', 'green', 'red', 'nir'])
    assert shown.shape == (101, 2, 3) and not shown[..., 1:].any() and np.ptp(shown[..., 0]) == 255
