"""`mae_mm.ViT` inside mmdet: one checkpoint, several detectors, tools and inferencer, on a few demo images."""

import json
from collections.abc import Callable
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.detection import ARCH, BOXES_ALONE, FASTER_RCNN, own_data, write_config
from helpers.tools import run_tool
from mmdet.apis import DetInferencer
from mmdet.evaluation import CocoMetric
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from PIL import Image
from timm.models import vision_transformer
from torch import Tensor, nn

from mae_mm.checkpoint import allow_mmengine_objects, load_pretrained
from mae_mm.demo_data.generate import make_demo_data
from mae_mm.engine import runner as launch
from mae_mm.engine.data_check import check_data
from mae_mm.models.mae import MAE
from mae_mm.models.vit import ViT
from mae_mm.registry import DATASETS

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under mmdet's runner, in the root of the project."""
    init_default_scope('mmdet')
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's data in COCO format: 24 training images, 12 others, all in `images`, train.json and val.json."""
    demo = make_demo_data(tmp_path_factory.mktemp('demo'), scale=0.01, say=lambda message: None) / 'coco'
    own = tmp_path_factory.mktemp('own')
    (own / 'images').mkdir()
    for split in ('train', 'val'):
        content = json.loads((demo / f'annotations/instances_{split}2017.json').read_text())
        (own / 'images' / split).symlink_to(demo / f'{split}2017')
        for image in content['images']:
            image['file_name'] = f'{split}/{image["file_name"]}'  # names with folders are fine, too
        (own / f'{split}.json').write_text(json.dumps(content))
    return own


@pytest.fixture
def checkpoint(tmp_path: Path, make_mae: Callable[..., MAE]) -> tuple[Path, MAE]:
    """A pre-trained MAE for 32 px, and its file."""
    mae = make_mae(dict(arch=ARCH))
    torch.save(dict(state_dict=mae.state_dict()), tmp_path / 'mae.pth')
    return tmp_path / 'mae.pth', mae


def backbone(**options: object) -> dict:
    return dict(type='mae_mm.ViT', **{
        'arch': ARCH, 'img_size': 64, 'patch_size': 8, 'out_type': 'featmap', 'out_indices': (0, 1, 2, 3), **options})


def neck(**options: object) -> list[dict]:
    return [dict(type='mae_mm.FourTapPyramid', embed_dim=32),
            dict(type='FPN', in_channels=[32] * 4, out_channels=32, num_outs=5, **options)]


def samples(sizes: list[tuple[int, int]]) -> list[DetDataSample]:
    """One object in each image of (height, width) pixels."""
    out = []
    for height, width in sizes:
        masks = np.zeros((1, height, width), np.uint8)
        masks[:, 4:24, 8:24] = 1
        sample = DetDataSample(metainfo=dict(
            img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), img_id=0))
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor([[8.0, 4.0, 24.0, 24.0]])), labels=torch.tensor([1]),
            masks=BitmapMasks(masks, height, width))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        out.append(sample)
    return out


def batch(sizes: list[tuple[int, int]]) -> dict:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]
    return dict(inputs=inputs, data_samples=samples(sizes))


def detector(base: str, **options: object) -> nn.Module:
    """A detector of mmdet's `_base_/models` with our backbone (`options`) and neck, and 32 channels all over."""
    model = Config.fromfile(Path(mmdet.__file__).parent / '.mim/configs/_base_/models' / f'{base}.py').model
    fpn = {key: model.neck[key] for key in ('start_level', 'add_extra_convs') if key in model.neck}
    model.backbone, model.neck = backbone(**options), neck(**fpn)
    parts = [model.get('rpn_head'), model.get('bbox_head'), *(model.get('roi_head') or {}).values()]
    for part in [part for part in parts if isinstance(part, dict)]:
        part.update({key: 32 for key in part if key.endswith('_channels')})
    for part in (model.test_cfg, model.test_cfg.get('rcnn') or {}):
        if 'score_thr' in part:
            part.update(score_thr=0.0, max_per_img=5)  # untrained heads are sure of nothing
    built = MODELS.build(model)
    built.init_weights()
    return built


@pytest.mark.parametrize('bf16', [False, True])
@pytest.mark.parametrize('base', ['faster-rcnn_r50_fpn', 'retinanet_r50_fpn', 'mask-rcnn_r50_fpn'])
def test_detectors_of_mmdet_train_and_predict(base: str, bf16: bool) -> None:
    """All of the backbone is trained, in either precision, and boxes lie inside their images."""
    model = detector(base, bf16=bf16)
    data = model.data_preprocessor(batch([(64, 64), (48, 64)]), training=True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total, _ = model.parse_losses(losses)
    total.backward()
    for name, param in model.backbone.named_parameters():
        if param.requires_grad:
            assert param.grad is not None and param.grad.dtype == torch.float32, name
            assert param.grad.abs().sum() > 0, name
    model.eval()
    sizes = [(96, 64), (40, 128)]  # other sizes than in training, rectangles
    with torch.no_grad():
        data = model.data_preprocessor(batch(sizes), training=False)
        predictions = model.predict(data['inputs'], data['data_samples'])
    for (height, width), prediction in zip(sizes, predictions, strict=True):
        boxes = prediction.pred_instances.bboxes
        assert len(boxes) > 0 and boxes.dtype == torch.float32
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        if 'mask' in base:
            assert prediction.pred_instances.masks.shape == (len(boxes), height, width)


def test_bfloat16_is_inside_the_backbone_only(make_vit: Callable[..., ViT], imgs: Tensor) -> None:
    vit = make_vit(out_type='featmap', out_indices=(0, 1), bf16=True, checkpointing=True)
    full = make_vit(out_type='featmap', out_indices=(0, 1))
    full.load_state_dict(vit.state_dict())
    inside = []
    vit.blocks[1].mlp.register_forward_hook(lambda module, args, out: inside.append(out.dtype))
    for half, whole in zip(vit(imgs), full(imgs), strict=True):
        assert half.dtype == torch.float32
        assert 0 < (half - whole).abs().max() < 0.05 * whole.abs().max()
    assert inside == [torch.bfloat16]


def test_features_equal_those_of_pre_training(checkpoint: tuple[Path, MAE], imgs: Tensor) -> None:
    """A global-attention ViT in the detector, started from a file, against the encoder with nothing masked."""
    path, mae = checkpoint
    model = detector(
        'mask-rcnn_r50_fpn', img_size=32, init_cfg=dict(type='mae_mm.Pretrained', checkpoint=str(path)))
    data = model.data_preprocessor(batch([(32, 32)]))
    seen = []
    model.backbone.register_forward_hook(lambda module, args, out: seen.append((args[0], out[-1])))
    with torch.no_grad():
        model.extract_feat(data['inputs'])
        (inputs, last), = seen
        assert torch.equal(inputs, data['inputs'])
        encoder = mae.backbone
        expected = encoder.encode(encoder.embed(inputs))[:, 1:]
        torch.testing.assert_close(encoder.norm(last.flatten(2).transpose(1, 2)), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('window_size', [0, 14])
def test_position_table_from_224_to_1024_is_as_timm_resamples_it(window_size: int, tmp_path: Path) -> None:
    dims = dict(embed_dim=32, depth=2, num_heads=2)
    small, large = (vision_transformer.VisionTransformer(img_size=side, num_classes=0, **dims) for side in (224, 1024))
    large.load_state_dict(vision_transformer.checkpoint_filter_fn(small.state_dict(), large))
    torch.save(small.state_dict(), tmp_path / 'timm.pth')
    vit = ViT(arch=dims, img_size=1024, out_type='featmap', window_size=window_size, rel_pos=window_size > 0)
    load_pretrained(vit, str(tmp_path / 'timm.pth'))
    assert large.pos_embed.shape == (1, 1 + 64 * 64, 32)
    torch.testing.assert_close(vit.pos_embed, large.pos_embed, atol=1e-6, rtol=0)


@pytest.mark.parametrize('name', ['mask_rcnn_vit_b_coco', 'vitdet_b_coco'])
def test_train_test_and_infer_on_own_data(
    name: str, data: Path, checkpoint: tuple[Path, MAE], tmp_path: Path,
) -> None:
    """From an MAE file through two iterations, a validation, tools/test.py at another size and DetInferencer."""
    config, work = write_config(name, data, tmp_path), tmp_path / 'work'
    run_tool('train', config, '--work-dir', work, '--pretrained', checkpoint[0])
    weights = torch.load(work / 'iter_2.pth', weights_only=False)
    assert weights['state_dict']['roi_head.mask_head.conv_logits.weight'].shape[0] == 12
    assert weights['meta']['dataset_meta']['classes'][:2] == ('star_stripes', 'star_dots')
    moved = weights['state_dict']['backbone.blocks.0.mlp.fc1.weight'] - checkpoint[1].backbone.blocks[0].mlp.fc1.weight
    assert 0 < moved.abs().max() < 1e-3  # started from the file, and was trained

    run_tool('test', config, work / 'iter_2.pth', '--work-dir', work, '--out', tmp_path / 'ap.json', '--cfg-options',
             'test_dataloader.dataset.pipeline.1.scale=(96,128)', 'model.data_preprocessor.pad_size_divisor=32')
    metrics = json.loads((tmp_path / 'ap.json').read_text())
    assert {'coco/bbox_mAP', 'coco/segm_mAP', 'coco/bbox_mAP_50'} <= set(metrics)
    assert all(-1 <= value <= 1 for value in metrics.values())

    folder = tmp_path / 'folder'
    folder.mkdir()
    for path in sorted((data / 'images/train').iterdir())[:3]:
        (folder / path.name).symlink_to(path)
    if name == 'vitdet_b_coco':
        run_tool('predict', config, work / 'iter_2.pth', folder, '--out', tmp_path / 'out/vis', '--score-thr', '0',
                 '--side', '192', '--panel', tmp_path / 'panel.jpg')
        assert (tmp_path / 'out/vis/predictions.csv').read_text().startswith('image,class,score')
        (tmp_path / 'out/vis/predictions.csv').unlink()
        assert {max(Image.open(path).size) for path in (tmp_path / 'out/vis').iterdir()} == {192}
        assert Image.open(tmp_path / 'panel.jpg').size[0] > 3 * 128
    else:
        allow_mmengine_objects()
        # The config as it was run has the classes in it.
        inferencer = DetInferencer(str(work / 'tiny.py'), str(work / 'iter_2.pth'), device='cpu', show_progress=False)
        inferencer(str(folder), out_dir=str(tmp_path / 'out'), pred_score_thr=0.0, no_save_pred=False)
        assert len(list((tmp_path / 'out/preds').glob('*.json'))) == 3
    pictures = sorted(path.name for path in (tmp_path / 'out/vis').iterdir())
    assert pictures == sorted(path.name for path in folder.iterdir())


def test_ground_truth_as_prediction_has_full_ap(data: Path, tmp_path: Path) -> None:
    """Categories, boxes and masks of the user's file survive the way from the json to the metric."""
    cfg = launch.load_config(str(write_config('vitdet_b_coco', data, tmp_path)))
    check_data(cfg)
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    metric = CocoMetric(cfg.val_evaluator.ann_file, ['bbox', 'segm'])
    metric.dataset_meta = dataset.metainfo
    for i in range(len(dataset)):
        sample = pseudo_collate([dataset[i]])['data_samples'][0]
        truth = sample.gt_instances
        sample.pred_instances = InstanceData(  # mmdet leaves ground truth in the pixels of the file
            bboxes=truth.bboxes.tensor, labels=truth.labels, scores=torch.ones(len(truth)),
            masks=torch.from_numpy(truth.masks.to_ndarray().astype(bool)))
        metric.process({}, [sample.to_dict()])
    values = metric.evaluate(len(dataset))
    assert values['coco/bbox_mAP'] == values['coco/segm_mAP'] == 1


def test_boxes_alone(data: Path, tmp_path: Path) -> None:
    """Annotations without segmentations: refused as they are, good with the lines of the docs."""
    content = json.loads((data / 'train.json').read_text())
    for annotation in content['annotations']:
        del annotation['segmentation']
    own = tmp_path / 'own'
    own.mkdir()
    for name in ('train.json', 'val.json'):
        (own / name).write_text(json.dumps(content))
    (own / 'images').symlink_to(data / 'images')
    (tmp_path / 'masks.py').write_text(own_data(own).replace('configs/', f'{ROOT}/configs/'))
    with pytest.raises(ValueError, match="'segmentation'"):
        check_data(launch.load_config(str(tmp_path / 'masks.py')))
    (tmp_path / 'boxes.py').write_text(f"_base_ = 'masks.py'\n{BOXES_ALONE}")
    cfg = launch.load_config(str(tmp_path / 'boxes.py'))
    check_data(cfg)
    cfg.model.backbone.update(arch='tiny')
    cfg.model.neck.update(embed_dim=192)
    model = MODELS.build(cfg.model)
    assert not model.roi_head.with_mask and model.roi_head.bbox_head.num_classes == 12
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        sample = DATASETS.build(loader.dataset)[0]['data_samples']
        assert len(sample.gt_instances.bboxes) and 'masks' not in sample.gt_instances
    assert cfg.val_evaluator.metric == 'bbox'


def test_faster_rcnn_of_the_docs(tmp_path: Path) -> None:
    (tmp_path / 'faster.py').write_text(FASTER_RCNN)
    cfg = Config.fromfile(tmp_path / 'faster.py')
    cfg.model.backbone.update(arch='tiny', init_cfg=None)
    cfg.model.neck = [dict(cfg.model.neck[0], embed_dim=192), dict(cfg.model.neck[1], in_channels=[192] * 4)]
    features = MODELS.build(cfg.model).extract_feat(torch.zeros(1, 3, 64, 96))
    assert [tuple(x.shape[2:]) for x in features] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
