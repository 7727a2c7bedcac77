"""Every recipe family trains: two iterations of the real recipe, shrunk, on demo data through mmengine's Runner."""

import math
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mae_mm.demo_data.generate import make_demo_data
from mae_mm.engine import runner as launch
from mae_mm.registry import DATASETS

pytestmark = pytest.mark.integration

CONFIGS = ROOT / 'configs'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
WNIDS = ['n01440764', 'n01443537', 'n01484850', 'n01491361', 'n01494475', 'n01496331', 'n01498041', 'n01514668',
         'n01514859', 'n01518878', 'n01530575', 'n01531178']  # the first twelve classes of ImageNet


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 12 val images in all layouts, and those that the demo data do not have."""
    root = make_demo_data(tmp_path_factory.mktemp('demo'), scale=0.01, say=lambda message: None)
    lists = dict(train='places365_train_standard.txt', val='places365_val.txt')
    lists205 = root / 'places205/trainvalsplit_places205'
    for split, folder in (('train', 'data_256_standard'), ('val', 'val_256')):
        lines = (root / 'places365' / lists[split]).read_text().replace('/', '', 1).replace('\n/', '\n')
        lists205.mkdir(parents=True, exist_ok=True)
        (lists205 / f'{split}_places205.csv').write_text(
            ''.join(f'{folder}/{line}\n' for line in lines.splitlines()))
    images205 = root / 'places205/data/vision/torralba/deeplearning/images256'
    images205.parent.mkdir(parents=True)
    images205.symlink_to(root / 'places365')
    folders = sorted((root / 'imagenet/val').iterdir())
    for wnid, folder in zip(WNIDS, folders, strict=True):
        for target in (root / 'imagenet-a' / wnid, root / 'imagenet-c/fog/1' / wnid):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(folder)
    return root


def shrink(cfg: Config, work_dir: Path) -> Config:
    """A tiny encoder, eight images, two iterations; the recipe's pipelines, losses and optimizer stay."""
    cfg.model.backbone.arch = dict(embed_dim=32, depth=2, num_heads=2)
    cfg.model.backbone.patch_size, cfg.model.head.in_channels = 16, 32
    if cfg.model.get('neck'):
        cfg.model.neck['input_features' if 'input_features' in cfg.model.neck else 'embed_dim'] = 32
    cfg.train_dataloader.update(batch_size=4, num_workers=0)
    for name in LOADERS:
        cfg[name].num_workers, cfg[name].dataset.serialize_data = 0, False  # it collects garbage: seconds
    cfg.train_dataloader.dataset.indices = cfg.val_dataloader.dataset.indices = 8
    cfg.train_cfg.max_epochs, cfg.param_scheduler = 1, []
    cfg.auto_scale_lr.enable = False  # lr as for the full batch: every trained weight must move
    cfg.work_dir, cfg.launcher, cfg.log_level = str(work_dir), 'none', 'WARNING'
    cfg.experiment_name = work_dir.name
    return cfg


class Start(Hook):
    """Keeps the weights as they are before the first iteration."""

    def before_train(self, runner: Runner) -> None:
        self.state = {name: value.clone() for name, value in runner.model.state_dict().items()}


def changed(cfg: Config) -> tuple[set[str], Runner]:
    """Train, and name the parameters that moved."""
    runner, start = launch.build_runner(cfg), Start()
    runner.register_hook(start)
    runner.train()
    assert runner.iter == 2
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() >= 0
    names = {name for name, _ in runner.model.named_parameters()}
    return {name for name in names if not torch.equal(start.state[name], runner.model.state_dict()[name])}, runner


def twelve_classes(cfg: Config, root: Path) -> Config:
    cfg.data_preprocessor.num_classes = cfg.model.head.num_classes = 12
    for name in LOADERS:
        cfg[name].dataset.data_root = str(root)
        cfg[name].dataset.metainfo = dict(classes=[str(i) for i in range(12)])
    return cfg


@pytest.mark.parametrize(('name', 'folder'), [
    ('classification/vit_b16_in1k', 'imagenet'),
    ('classification/vit_b16_in1k_scratch', 'imagenet'),
    ('classification/inat/vit_b16_inat2018', 'inat2018'),
    ('classification/places/vit_b16_places205', 'places205'),
    ('classification/places/vit_b16_places365', 'places365'),
])
def test_fine_tuning_moves_everything(data, tmp_path, name, folder):
    cfg = twelve_classes(shrink(launch.load_config(str(CONFIGS / f'{name}.py')), tmp_path), data / folder)
    moved, runner = changed(cfg)
    assert moved == {parameter for parameter, _ in runner.model.named_parameters()}


def test_linear_probing_moves_the_head_alone(data, tmp_path):
    cfg = launch.load_config(str(CONFIGS / 'linear/vit_b16_in1k.py'))
    moved, runner = changed(twelve_classes(shrink(cfg, tmp_path), data / 'imagenet'))
    assert moved == {'head.fc.weight', 'head.fc.bias'}
    assert runner.model.neck.bn.num_batches_tracked == 2 and not runner.model.neck.bn.affine


def test_attentive_probing_moves_queries_values_and_head(data, tmp_path):
    cfg = launch.load_config(str(CONFIGS / 'attentive/vit_b16_in1k.py'))
    moved, runner = changed(twelve_classes(shrink(cfg, tmp_path), data / 'imagenet'))
    assert moved == {'neck.queries', 'neck.values.weight', 'head.fc.weight', 'head.fc.bias'}
    assert runner.model.neck.norm.num_batches_tracked == 2


@pytest.mark.parametrize(('k', 'trained'), [
    (0.5, ('backbone.blocks.1.norm2.', 'backbone.blocks.1.mlp.')), (1, ('backbone.blocks.1.', ))])
def test_partial_fine_tuning_moves_the_last_blocks(data, tmp_path, k, trained):
    cfg = launch.load_config(str(CONFIGS / 'partial/vit_l16_in1k.py'), {'model.backbone.tuned_blocks': k})
    moved, runner = changed(twelve_classes(shrink(cfg, tmp_path), data / 'imagenet'))
    expected = (*trained, 'backbone.fc_norm.', 'head.')
    assert moved == {name for name, _ in runner.model.named_parameters() if name.startswith(expected)}


@pytest.mark.parametrize(('name', 'metrics'), [('a', {'accuracy/top1'}), ('c', set())])
def test_fine_tuned_models_are_tested_on_variants(data, tmp_path, name, metrics):
    """Twelve classes of a model of a thousand; of ImageNet-C one folder of 75, so that no error is complete."""
    cfg = shrink(launch.load_config(str(CONFIGS / f'classification/robustness/vit_b16_in_{name}.py')), tmp_path)
    cfg.test_dataloader.dataset.data_root = str(data / f'imagenet-{name}')
    if name == 'c':  # the demo images are smaller than those of ImageNet-C
        cfg.test_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(224, 224)))
    runner = launch.build_runner(cfg)
    assert set(runner.test()) == metrics
    assert len(runner.test_dataloader.dataset) == 12


def test_lr_follows_the_release(data, tmp_path):
    """Cosine from 2e-3 to 1e-6, both times 0.65 for each layer above: 0.65 ** 3 for the embeddings of two blocks."""
    cfg = launch.load_config(str(CONFIGS / 'classification/vit_b16_in1k.py'))
    schedule = cfg.param_scheduler
    cfg = twelve_classes(shrink(cfg, tmp_path), data / 'imagenet')
    schedule[0].end = schedule[1].begin = 1
    cfg.param_scheduler, cfg.train_cfg.max_epochs = schedule, 3
    seen: list[dict[str, float]] = []

    class Watch(Hook):
        def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
            names = {id(param): name for name, param in runner.model.named_parameters()}
            seen.append({names[id(param)]: group['lr'] for group in runner.optim_wrapper.param_groups
                         for param in group['params'] if id(param) in names})

    runner = launch.build_runner(cfg)
    runner.register_hook(Watch(), priority='LOWEST')
    runner.train()
    warmup, total = 2, 6  # iterations
    for i in range(warmup, total):
        lr = 1e-6 + (2e-3 - 1e-6) * (1 + math.cos(math.pi * (i - warmup) / (total - warmup))) / 2
        for name, layers_above in (('head.fc.weight', 0), ('backbone.blocks.1.mlp.fc1.weight', 1),
                                   ('backbone.blocks.0.mlp.fc1.weight', 2), ('backbone.pos_embed', 3)):
            assert seen[i - 1][name] == pytest.approx(lr * 0.65**layers_above, rel=1e-6)  # set after iteration i - 1


# ---- the demo -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('name', 'folder', 'kind'), [
    ('', 'places365', 'Places365'), ('_scratch', 'places365', 'Places365'), ('_places', 'places365', 'Places365'),
    ('_inat', 'inat2018', 'INaturalist'), ('_linear', 'places365', 'Places365'),
    ('_attentive', 'places365', 'Places365'), ('_partial', 'places365', 'Places365')])
def test_demo_data_of_the_demo_configs(data, name, folder, kind):
    """The first images of the lists are as many of each class, so that the labelled subset is balanced."""
    cfg = launch.load_config(str(CONFIGS / f'demo/classification{name}.py'))
    for loader in ('train_dataloader', 'val_dataloader'):
        config = cfg[loader].dataset
        assert (config.type, config.data_root) == (f'mae_mm.{kind}', f'data/demo/{folder}')
        settings = {**config, 'data_root': str(data / folder), 'indices': 12, 'serialize_data': False}
        dataset = DATASETS.build(settings)
        assert sorted(dataset.get_data_info(i)['gt_label'] for i in range(12)) == list(range(12))
        assert dataset[0]['inputs'].shape == (3, 48, 48)
    assert cfg.train_dataloader.dataset.indices == 1008 and 1008 % 12 == 0
