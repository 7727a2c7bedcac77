"""Resolved pre-training recipes against the published values (MAE, appendix A.1, Table 8, and its release)."""


import pytest
from helpers import ROOT
from mmengine.config import Config

CONFIGS = ROOT / 'configs'
RECIPES = {  # file: arch, patch size, epochs
    'mae_pretrain.py': ('base', 16, 800),
    'pretrain/vit_b16_1600e.py': ('base', 16, 1600),
    'pretrain/vit_l16_800e.py': ('large', 16, 800),
    'pretrain/vit_l16_1600e.py': ('large', 16, 1600),
    'pretrain/vit_h14_800e.py': ('huge', 14, 800),
    'pretrain/vit_h14_1600e.py': ('huge', 14, 1600),
}


@pytest.mark.parametrize('path', RECIPES)
def test_every_published_value(path: str) -> None:
    cfg = Config.fromfile(CONFIGS / path)
    arch, patch_size, epochs = RECIPES[path]
    backbone, neck = cfg.model.backbone, cfg.model.neck
    assert (backbone.arch, backbone.patch_size, backbone.img_size) == (arch, patch_size, 224)
    assert (neck.embed_dim, neck.depth, neck.num_heads) == (512, 8, 16)
    assert (cfg.model.mask_ratio, cfg.model.norm_pix_loss) == (0.75, True)
    assert 'drop_path_rate' not in backbone and 'clip_grad' not in cfg.optim_wrapper

    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.lr / cfg.auto_scale_lr.base_batch_size * 256 == pytest.approx(1.5e-4)
    assert cfg.auto_scale_lr == dict(base_batch_size=4096, enable=True)
    assert (optimizer.type, tuple(optimizer.betas), optimizer.weight_decay) == ('AdamW', (0.9, 0.95), 0.05)
    assert cfg.optim_wrapper.get('paramwise_cfg') is None  # no layer decay

    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.end, cosine.type, cosine.begin) == ('LinearLR', 40, 'CosineAnnealingLR', 40)
    assert 'end' not in cosine and 'T_max' not in cosine and 'eta_min' not in cosine  # to 0 at the last epoch
    assert warmup.convert_to_iter_based and cosine.convert_to_iter_based
    assert cfg.train_cfg.max_epochs == epochs

    crop, = cfg.train_dataloader.dataset.pipeline
    assert (crop.type, crop.size, tuple(crop.scale)) == ('mae_mm.LoadRandomResizedCrop', 224, (0.2, 1.0))


def test_leaves_are_short() -> None:
    """A leaf holds its differences and a header, nothing more."""
    for path in CONFIGS.rglob('*.py'):
        lines = len(path.read_text().splitlines())
        assert lines <= 95, f'{path}: {lines} lines'
