"""One run of a comparison."""

from pathlib import Path

import numpy as np
from helpers import ROOT
from PIL import Image

from mae_mm.engine import runner as launch
from mae_mm.transfer.runs import Job, Metric, Protocol, last_scalars, train


def test_runs_of_one_process_write_to_folders_of_their_own(tmp_path: Path) -> None:
    """Hosts give their visualiser a name, and mmengine keeps one of each name."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 50, 3), dtype=np.uint8)
    (tmp_path / 'images').mkdir()
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'images/{i:02}.jpg')
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    for seed in (0, 1):
        cfg = launch.load_config(str(ROOT / 'configs/demo/mae_pretrain.py'), {
            **{f'{loader}.dataset.data_root': str(tmp_path / 'images') for loader in loaders},
            **{f'{loader}.num_workers': 0 for loader in loaders}, 'train_dataloader.batch_size': 12,
            'model.backbone.arch': dict(embed_dim=24, depth=1, num_heads=2), 'model.neck.embed_dim': 24,
            'train_cfg.max_epochs': 1, 'param_scheduler': [], 'default_hooks.logger.interval': 1})
        cfg.visualizer = dict(type='Visualizer', name='visualizer', vis_backends=[dict(type='LocalVisBackend')])
        cfg.work_dir, cfg.experiment_name, cfg.launcher = str(tmp_path / f'run{seed}'), f'run{seed}', 'none'
        values, sizes = train(
            Job(f'run{seed}', cfg, None, Protocol('', None, ''), {'recon/loss': Metric('loss')}), {})
        assert values['recon/loss'] > 0 and sizes == dict(train_images=24, val_images=24)
        assert last_scalars(tmp_path / f'run{seed}')['recon/loss'] == values['recon/loss']
