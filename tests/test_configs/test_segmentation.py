"""Segmentors in mmseg: same weights as in the other hosts, any size, every recipe family trains and is tested."""

import copy
import csv
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import mmseg.models  # noqa: F401  fills mmseg's registry
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, free_port
from helpers.layer_decay import LR, WD, assert_same, optimizer_of, published, rates_of
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor, nn

from mae_mm.checkpoint import allow_mmengine_objects
from mae_mm.datasets.checks.label_maps import check_label_maps, check_labels
from mae_mm.demo_data.generate import make_demo_data
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.transfer.suites import SUITES
from mae_mm.visualization.predict import predict as predict_files

pytestmark = pytest.mark.integration

CONFIGS = ROOT / 'configs'
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
TINY = dict(embed_dim=32, depth=4, num_heads=2)
UPERNET, FROZEN, LINEAR = (
    f'segmentation/{name}_ade20k{kind}' for name, kind in (
        ('upernet_vit_b', ''), ('upernet_vit_b', '_frozen'), ('linear_vit_b', '')))


@pytest.fixture(autouse=True)
def scope():
    """mmseg's names, in this file alone."""
    before = DefaultScope.get_current_instance()
    init_default_scope('mmseg')
    yield
    if before is not None:
        init_default_scope(before.scope_name)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 train and 12 val images in all layouts; beside ADE20K's."""
    return make_demo_data(tmp_path_factory.mktemp('demo'), scale=0.01, say=lambda message: None)


@cache
def recipe(name: str) -> Config:
    return launch.load_config(str(CONFIGS / f'{name}.py'))


def tiny(name: str, size: int = 64, patch_size: int = 16) -> Config:
    """A recipe with a small model of four blocks for small images."""
    cfg = copy.deepcopy(recipe(name))
    model = cfg.model.get('module', cfg.model)
    model.data_preprocessor.update(size=(size, size), test_cfg=dict(size_divisor=patch_size))
    model.backbone.update(arch=TINY, img_size=size, patch_size=patch_size)
    model.neck.embed_dim = 32
    model.test_cfg = dict(mode=model.test_cfg.mode, crop_size=(size, size), stride=(size * 2 // 3, ) * 2)
    if model.decode_head.type == 'UPerHead':
        model.backbone.out_indices = (0, 1, 2, 3)
        model.decode_head.update(in_channels=[32] * 4, channels=32)
        model.auxiliary_head.update(in_channels=32, channels=16)
    else:
        model.decode_head.update(in_channels=32, channels=32)
    return cfg


def shrink(cfg: Config, root: Path, work_dir: Path, size: int = 64) -> Config:
    """Two iterations on eight images of the demo data; the recipe's losses, transforms and optimizer stay."""
    cfg.train_dataloader.update(batch_size=4, num_workers=0, persistent_workers=False)
    for name in LOADERS:
        dataset = cfg[name].dataset
        dataset.update(data_root=str(root / 'ade/ADEChallengeData2016'), serialize_data=False, indices=4)
        cfg[name].update(num_workers=0, persistent_workers=False)
        for transform in dataset.pipeline:
            if transform.type in ('Resize', 'RandomResize'):
                transform.scale = (4 * size, size)
            if transform.type == 'RandomCrop':
                transform.crop_size = (size, size)
            if transform.type == 'TestTimeAug':
                transform.transforms[0] = [dict(type='Resize', scale=(4 * s, s), keep_ratio=True) for s in (48, 64)]
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.param_scheduler, cfg.auto_scale_lr.enable = [], False
    cfg.work_dir, cfg.launcher, cfg.log_level = str(work_dir), 'none', 'WARNING'
    cfg.experiment_name = work_dir.name
    return cfg


def build(cfg: Config, checkpoint: Path | None = None) -> nn.Module:
    if checkpoint:
        launch.start_from(cfg, str(checkpoint))
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def samples(*sizes: tuple[int, int], classes: int = 20) -> list[SegDataSample]:
    """Random labels of images of these sizes."""
    return [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(classes, (1, *size))),
                          metainfo=dict(img_shape=size, ori_shape=size)) for size in sizes]


def predict(model: nn.Module, img: Tensor) -> Tensor:
    """(3, H, W) uint8 -> (H, W) labels, through the preprocessor of the model."""
    model.eval()
    with torch.no_grad():
        result, = model.test_step(dict(inputs=[img], data_samples=samples(tuple(img.shape[1:]))))
    return result.pred_sem_seg.data[0]


# ---- one checkpoint in all hosts ------------------------------------------------------------------------------------

def test_one_file_gives_equal_features_in_all_hosts(make_mae, tmp_path: Path) -> None:
    """The recipes of classification, detection and segmentation with a small encoder, `--pretrained` one file.

    Segmentation and detection have relative position bias, zero at the start; detection is without windows, which
    change what a token sees, and in float32.
    """
    mae = make_mae(dict(arch=TINY, img_size=64, patch_size=8)).eval()
    file = tmp_path / 'mae.pth'
    torch.save(dict(state_dict=mae.state_dict()), file)
    written = file.read_bytes()
    imgs = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = mae.backbone.encode(mae.backbone.embed(imgs))[:, 1:]  # nothing masked, class token off
    small = dict(arch=TINY, img_size=64, patch_size=8)

    classifier = launch.load_config(str(CONFIGS / 'classification/vit_b16_in1k.py'))
    classifier.model.backbone.update(small)
    classifier.model.head.in_channels = 32
    detector = launch.load_config(str(CONFIGS / 'demo/detection.py'))
    detector.model.backbone.update(**small, out_indices=(0, 1, 2, 3), rel_pos=True, bf16=False)
    detector.model.neck.embed_dim = 32
    segmentor = tiny(UPERNET, 64, 8)

    features = {}
    for host, cfg in dict(mmpretrain=classifier, mmdet=detector, mmseg=segmentor).items():
        __import__(f'{host}.models')
        with DefaultScope.overwrite_default_scope(host):
            model = build(cfg, file).eval()
        with torch.no_grad():
            if host == 'mmpretrain':
                tokens = model.backbone.encode(model.backbone.embed(imgs))[:, 1:]
                pooled, = model.backbone(imgs)
                torch.testing.assert_close(pooled, model.backbone.fc_norm(tokens.mean(1)), atol=1e-5, rtol=0)
            else:
                tokens = model.backbone(imgs)[-1].flatten(2).transpose(1, 2)
        # Feature maps come without the final norm, which the encoder of pre-training has.
        norm = mae.backbone.norm
        features[host] = F.layer_norm(tokens, (32, ), norm.weight, norm.bias, norm.eps).detach()
        assert sum('rel_pos' in name for name in model.state_dict()) == dict(mmpretrain=0).get(host, 8)
    for host, actual in features.items():
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0, msg=lambda text, host=host: f'{host}: {text}')
    assert file.read_bytes() == written


def test_another_crop_size_starts_from_the_resized_table(make_mae, tmp_path: Path) -> None:
    """Pre-trained with 4 x 4 patches; the segmentor has 8 x 8: parity with the encoder at that size."""
    mae = make_mae(dict(arch=TINY)).eval()
    torch.save(dict(state_dict=mae.state_dict()), tmp_path / 'mae.pth')
    model = build(tiny(UPERNET, 64, 8), tmp_path / 'mae.pth').eval()
    imgs = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = model.backbone(imgs)[-1].flatten(2).transpose(1, 2)
        normed = mae.backbone.norm(tokens)
        torch.testing.assert_close(normed, mae.backbone.encode(mae.backbone.embed(imgs))[:, 1:], atol=1e-5, rtol=0)


# ---- sizes ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [UPERNET, LINEAR])
def test_trained_at_512_and_used_at_640x480(name: str) -> None:
    """One set of weights: a step at 512 x 512, then slide and whole inference at the other size and at odd ones."""
    cfg = tiny(name, 512, patch_size=32)
    for head in filter(None, (cfg.model.decode_head, cfg.model.auxiliary_head)):
        head.num_classes = 4
    model = build(cfg)
    before = {key: value.shape for key, value in model.state_dict().items()}
    model.train()
    losses = model.loss(torch.randn(2, 3, 512, 512), samples((512, 512), (512, 512), classes=4))
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    img = torch.randint(256, (3, 480, 640), dtype=torch.uint8)
    for mode in ('slide', 'whole'):
        model.test_cfg.mode = mode
        for height, width in ((480, 640), (301, 533)):
            assert predict(model, img[:, :height, :width]).shape == (height, width)
    assert {key: value.shape for key, value in model.state_dict().items()} == before
    model.test_cfg.mode = 'slide'
    whole = predict(model, img[:, :480, :512])
    model.test_cfg.mode = 'whole'
    assert torch.equal(whole, predict(model, img[:, :480, :512]))  # one window is the whole image


def test_padding_is_cut_off_again() -> None:
    """Of an odd size: the labels are those of the padded image, without the padding."""
    model = build(tiny(UPERNET)).eval()
    model.test_cfg.mode = 'whole'
    img = torch.randint(256, (3, 50, 90), dtype=torch.uint8)
    normed = (img[[2, 1, 0]] - model.data_preprocessor.mean) / model.data_preprocessor.std
    with torch.no_grad():
        logits = model._forward(F.pad(normed, (0, 6, 0, 14))[None])
        logits = F.interpolate(logits, (64, 96), mode='bilinear')[0, :, :50, :90]
    assert torch.equal(predict(model, img), logits.argmax(0))


# ---- optimization ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', [UPERNET, LINEAR])
def test_rate_and_decay_of_every_parameter(name: str) -> None:
    """The rule of BEiT and MAE, relative position tables without weight decay like the other tables."""
    model = build(tiny(name))
    expected = {key: (lr, 0 if 'rel_pos' in key else wd)
                for key, (lr, wd) in published(model, 'backbone.', 4, 0.65).items()}
    actual = rates_of(model, optimizer_of(model, layer_decay_rate=0.65))
    assert_same(actual, expected)
    assert actual['decode_head.conv_seg.weight'] == (LR, WD) and actual['decode_head.conv_seg.bias'] == (LR, 0)
    if model.backbone.tuned_blocks == 0:
        assert not any(key.startswith('backbone.') for key in actual)
    else:
        assert actual['neck.scales.0.0.weight'] == (LR, WD) and actual['decode_head.psp_modules.0.1.bn.weight'][1] == 0
        assert actual['backbone.blocks.1.attn.rel_pos_bias'] == (pytest.approx(LR * 0.65**3), 0)
        assert actual['backbone.patch_embed.proj.weight'] == (pytest.approx(LR * 0.65**5), WD)


def test_loss_is_float32_under_autocast() -> None:
    model = build(tiny(UPERNET)).train()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        features = model.extract_feat(torch.randn(2, 3, 64, 64))
        assert model.decode_head(features).dtype == torch.bfloat16
        losses = model.loss(torch.randn(2, 3, 64, 64), samples((64, 64), (64, 64)))
    assert {losses[key].dtype for key in ('decode.loss_ce', 'aux.loss_ce')} == {torch.float32}


@pytest.mark.parametrize('name', [UPERNET, LINEAR])
def test_every_batch_norm_becomes_synchronised(name: str) -> None:
    """In neck, decode head and auxiliary head; by mmengine, as Runner does where there are several processes."""
    cfg = tiny(name)
    model = build(cfg)
    norms = {key for key, module in model.named_modules() if type(module) is nn.BatchNorm2d}
    assert {key.split('.')[0] for key in norms} == (
        {'neck'} if 'linear' in name else {'decode_head', 'auxiliary_head'})
    synchronised = convert_sync_batchnorm(model, cfg.sync_bn)
    assert norms == {key for key, module in synchronised.named_modules() if type(module) is nn.SyncBatchNorm}


def test_processes_without_gpus_keep_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """SyncBatchNorm refuses CPU tensors."""
    started = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', started.append)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    cfg = Config(dict(launcher='pytorch', sync_bn='torch'))
    launch.start_cpu_group(cfg)
    assert started == ['gloo'] and 'sync_bn' not in cfg
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    cfg = Config(dict(launcher='pytorch', sync_bn='torch'))
    launch.start_cpu_group(cfg)
    assert cfg.sync_bn == 'torch'


# ---- every family through mmengine's Runner -------------------------------------------------------------------------

class Start(Hook):
    """Keeps the weights as they are before the first iteration."""

    def before_train(self, runner: Runner) -> None:
        self.state = {name: value.clone() for name, value in runner.model.state_dict().items()}


@pytest.mark.parametrize(('name', 'trained'), [
    (UPERNET, ('backbone.', 'neck.', 'decode_head.', 'auxiliary_head.')),
    (FROZEN, ('neck.', 'decode_head.', 'auxiliary_head.')),
    (LINEAR, ('decode_head.', ))])
def test_two_iterations_of_every_family(data: Path, tmp_path: Path, name: str, trained: tuple[str, ...]) -> None:
    cfg = shrink(tiny(name), data, tmp_path)
    cfg.default_hooks.checkpoint = None
    runner, start = launch.build_runner(cfg), Start()
    check_labels(runner, ('train_dataloader', 'val_dataloader'))
    runner.register_hook(start)
    runner.train()
    moved = {key for key, value in runner.model.named_parameters() if not torch.equal(start.state[key], value)}
    assert moved == {key for key, _ in runner.model.named_parameters() if key.startswith(trained)}
    assert not any(type(module) is nn.SyncBatchNorm for module in runner.model.modules())
    for metric in SUITES['demo-segmentation'].metrics:  # the columns of the demo's table
        assert 0 <= runner.message_hub.get_scalar(f'val/{metric}').current() <= 100


def test_multi_scale_and_inferencer(data: Path, tmp_path: Path) -> None:
    """A trained file goes through the multi-scale test and mmseg's inferencer, which writes overlays."""
    cfg = shrink(tiny(UPERNET), data, tmp_path)
    cfg.default_hooks.checkpoint.update(interval=2, save_best=None)
    cfg.model.test_cfg.mode = 'slide'
    runner = launch.build_runner(cfg)
    runner.train()
    single = runner.test()
    tta = shrink(tiny(f'{UPERNET}_ms'), data, tmp_path)
    tester = launch.build_runner(tta)
    launch.load_weights(tester, str(tmp_path / 'iter_2.pth'))
    for key, value in runner.model.state_dict().items():
        assert torch.equal(tester.model.module.state_dict()[key], value), key
    multi = tester.test()
    assert set(multi) == set(single) == {'aAcc', 'mIoU', 'mAcc'}

    from mmseg.apis import MMSegInferencer

    allow_mmengine_objects()  # of the file that mmengine wrote
    cfg.dump(tmp_path / 'config.py')
    inferencer = MMSegInferencer(
        str(tmp_path / 'config.py'), str(tmp_path / 'iter_2.pth'), dataset_name='ade20k', device='cpu')
    images = sorted((data / 'ade/ADEChallengeData2016/images/validation').iterdir())[:2]
    result = inferencer([str(path) for path in images], out_dir=str(tmp_path / 'out'), show=False)
    for path, labels in zip(images, result['predictions'], strict=True):
        original = np.array(Image.open(path))
        overlay = np.array(Image.open(tmp_path / 'out/vis' / path.name))
        assert overlay.shape == original.shape and labels.shape == original.shape[:2]
        assert np.abs(overlay.astype(int) - original).mean() > 5  # coloured
    # tools/predict.py counts the same classes.
    predict_files(str(tmp_path / 'config.py'), str(tmp_path / 'iter_2.pth'), [str(images[0].parent)],
                  str(tmp_path / 'own'), num=2)
    with open(tmp_path / 'own/predictions.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    classes = runner.test_dataloader.dataset.metainfo['classes']
    for path, labels in zip(images, result['predictions'], strict=True):
        shares = {row['class']: float(row['share of the pixels']) for row in rows if row['image'] == str(path)}
        assert shares == {classes[label]: pytest.approx((labels == label).mean(), abs=1e-4)
                          for label in np.unique(labels)}


# ---- data of one's own, and the tools -------------------------------------------------------------------------------

def test_own_data_need_names_and_colours_alone(data: Path) -> None:
    """The demo recipe's lines for data of one's own are those of the demo data's list of classes."""
    from mmseg.registry import DATASETS

    cfg = copy.deepcopy(recipe('demo/segmentation'))
    classes = json.loads((data / 'ade/ADEChallengeData2016/classes.json').read_text())
    for loader, number in zip(LOADERS, (24, 12, 12), strict=True):
        settings = cfg[loader].dataset
        assert settings.data_root == 'data/demo/ade/ADEChallengeData2016'
        settings.update(data_root=str(data / 'ade/ADEChallengeData2016'), indices=None, serialize_data=False)
        dataset = DATASETS.build(settings)
        assert (list(dataset.metainfo['classes']), list(dataset.metainfo['palette'])) == (
            classes['classes'], classes['palette'])
        assert len(dataset) == number
        labels = dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()
        assert set(labels) <= {*range(20), 255} and len(labels) > 1
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 20


def test_lines_of_the_documentation_are_enough(data: Path, tmp_path: Path) -> None:
    """The leaf of docs/segmentation.md, on two pictures of three classes that start at 0."""
    from mmseg.registry import DATASETS

    text = (ROOT / 'docs/segmentation.md').read_text()
    leaf = next(block for block in text.split('```python')[1:] if "data_root='data/mine'" in block).split('```')[0]
    for folder in ('images/train', 'images/val', 'labels/train', 'labels/val'):
        (tmp_path / folder).mkdir(parents=True)
        Image.new(*(('RGB', (40, 30)) if 'images' in folder else ('L', (40, 30), 2))).save(
            tmp_path / folder / ('a.jpg' if 'images' in folder else 'a.png'))
    config = tmp_path / 'mine.py'
    config.write_text(leaf.replace("'configs/", f"'{CONFIGS}/").replace("'data/mine'", repr(str(tmp_path))))
    cfg = launch.load_config(str(config))
    check_data(cfg)
    for loader in LOADERS:
        dataset = DATASETS.build(cfg[loader].dataset)
        check_label_maps(dataset, loader)
        assert dataset[0]['data_samples'].gt_sem_seg.data.unique().tolist()[0] == 2
        assert (len(dataset), dataset.metainfo['classes'], len(dataset.metainfo['palette'])) == (
            1, ['road', 'roof', 'tree'], 3)
    assert cfg.model.decode_head.num_classes == cfg.model.auxiliary_head.num_classes == 3
    assert cfg.model.backbone.arch == 'base'  # the rest is the recipe


def options(data: Path, **more: object) -> list[str]:
    """--cfg-options that shrink the demo recipe to two iterations."""
    settings = {
        **{f'{name}.dataset.data_root': data / 'ade/ADEChallengeData2016' for name in LOADERS},
        'model.backbone.arch.embed_dim': 24, 'model.neck.embed_dim': 24,
        'model.decode_head.in_channels': '[24,24,24,24]',
        'model.decode_head.channels': 16, 'model.auxiliary_head.in_channels': 24, 'train_dataloader.batch_size': 4,
        'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 2,
        'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1, **more}
    return ['--cfg-options', *(f'{key}={value}' for key, value in settings.items())]


def run(*command: str, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=900, env={
        **os.environ, 'OMP_NUM_THREADS': '1', 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', **env})


@pytest.mark.slow
def test_train_and_test_from_the_command_line(data: Path, tmp_path: Path) -> None:
    config, work = 'configs/demo/segmentation.py', tmp_path / 'work'
    trained = run(sys.executable, 'tools/train.py', config, '--work-dir', str(work), *options(data))
    assert trained.returncode == 0, trained.stderr[-3000:]
    tested = run(sys.executable, 'tools/test.py', config, str(work / 'iter_2.pth'), '--work-dir', str(work), '--out',
                 str(tmp_path / 'metrics.json'), *options(data))
    assert tested.returncode == 0, tested.stderr[-3000:]
    assert set(json.loads((tmp_path / 'metrics.json').read_text())) == {'aAcc', 'mIoU', 'mAcc'}

    label_map = next((data / 'ade/ADEChallengeData2016/annotations/validation').iterdir())
    original = label_map.read_bytes()
    Image.fromarray(np.full_like(np.array(Image.open(label_map)), 77)).save(label_map)
    try:
        refused = run(sys.executable, 'tools/train.py', config, '--work-dir', str(tmp_path / 'new'), *options(data))
    finally:
        label_map.write_bytes(original)
    assert refused.returncode == 2 and 'Traceback' not in refused.stderr
    assert f'{label_map} has [77]' in refused.stderr


@pytest.mark.slow
def test_two_processes_on_the_cpu(data: Path, tmp_path: Path) -> None:
    """Every parameter gets its gradient in DistributedDataParallel, and BN stays BN."""
    result = run('bash', 'tools/dist_train.sh', 'configs/demo/segmentation.py', '2', '--work-dir', str(tmp_path),
                 *options(data), PORT=str(free_port()))
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    assert 'mIoU' in result.stdout + result.stderr and (tmp_path / 'iter_2.pth').exists()
