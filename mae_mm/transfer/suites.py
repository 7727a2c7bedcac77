"""The comparisons that `tools/transfer.py` offers by name."""

from collections.abc import Sequence

from mmengine.config import Config

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.paths import find_config
from mae_mm.transfer.published import published_metrics, read_metafiles
from mae_mm.transfer.types import Metric, Protocol, Suite

GROUPS = {'demo': ('demo-classification', 'demo-detection', 'demo-segmentation'),
          'demo-multiband': ('multiband-classification', 'multiband-detection', 'multiband-segmentation'),
          'all': ('imagenet', 'coco', 'ade20k', 'inat', 'places')}
SIZES = {768: ('b', 'b16'), 1024: ('l', 'l16'), 1280: ('h', 'h14')}  # by width
BLOCKS = 'blocks that are fine-tuned'
TOP1 = {'accuracy/top1': Metric('top-1')}
BOX_MASK = {'coco/bbox_mAP': Metric('box AP', 100.0), 'coco/segm_mAP': Metric('mask AP', 100.0)}
MIOU = {'mIoU': Metric('mIoU')}
DEMO_AP = {'coco/bbox_mAP': Metric('box AP', 100.0), 'coco/bbox_mAP_50': Metric('box AP50', 100.0),
           'coco/segm_mAP': Metric('mask AP', 100.0), 'coco/segm_mAP_50': Metric('mask AP50', 100.0)}
DEMO_MIOU = {**MIOU, 'mAcc': Metric('class accuracy'), 'aAcc': Metric('pixel accuracy')}
TUNED = 'model.backbone.tuned_blocks'

# Suites on published data sets: task, metrics, and the title and config of each protocol, with {size} (b, l, h) and
# {patches} (b16, l16, h14). A config that does not exist for a size is left out.
PUBLISHED = {
    'imagenet': ('Classification, ImageNet-1K', TOP1, dict(
        finetune=('fine-tuning', 'classification/vit_{patches}_in1k'),
        linear=('linear probing', 'linear/vit_{patches}_in1k'),
        attentive=('attentive probing', 'attentive/vit_{patches}_in1k'))),
    'coco': ('Object detection and instance segmentation, COCO', BOX_MASK, dict(
        vitdet=('ViTDet', 'detection/vitdet_{size}_coco'),
        mask_rcnn=('Mask R-CNN', 'detection/mask_rcnn_vit_{size}_coco'))),
    'ade20k': ('Semantic segmentation, ADE20K', MIOU, dict(
        upernet=('UperNet', 'segmentation/upernet_vit_{size}_ade20k'))),
    'inat': ('Classification, iNaturalist', TOP1, {
        f'inat{year}': (f'iNaturalist {year}', f'classification/inat/vit_{{patches}}_inat{year}')
        for year in (2017, 2018, 2019)}),
    'places': ('Classification, Places', TOP1, {
        f'places{classes}': (f'Places{classes}', f'classification/places/vit_{{patches}}_places{classes}')
        for classes in (205, 365)}),
}


def find_suites(name: str, checkpoint: Checkpoint, epochs: Sequence[int] = ()) -> dict[str, Suite]:
    """The suites of a name or group that have recipes for the size of the checkpoint.

    `epochs` are lengths to try for each number of blocks in partial fine-tuning (default: that of the recipe).
    """
    known = (*SUITES, *PUBLISHED, 'partial', *GROUPS)
    if name not in known:
        raise ValueError(f'--suite {name!r}: must be one of {", ".join(known)}')
    suites = {one: SUITES[one] if one in SUITES else published_suite(one, checkpoint)
              for one in GROUPS.get(name, (name, ))}
    chans = checkpoint.tensors['patch_embed.proj.weight'].shape[1]
    suites = {one: suite._replace(protocols={
        key: protocol for key, protocol in suite.protocols.items() if protocol.chans in (None, chans)})
        for one, suite in suites.items()}
    if epochs:
        if not any(suite.axis for suite in suites.values()):
            raise ValueError(f'--epochs is for --suite partial and demo-partial, got --suite {name}')
        suites = {one: vary_epochs(suite, epochs) for one, suite in suites.items()}
    suites = {one: suite for one, suite in suites.items() if suite.protocols}
    if not suites:
        raise ValueError(f'--suite {name}: no recipe for an encoder of this size ({checkpoint})')
    return suites


def published_suite(name: str, checkpoint: Checkpoint) -> Suite:
    """The transfers of the paper on one data set, long runs from the checkpoint alone, with the published results."""
    if checkpoint.embed_dim not in SIZES:
        raise ValueError(
            f'{checkpoint.source} is a {checkpoint}; there are recipes for ViT-B, -L and -H (768, 1024, 1280 wide). '
            '--suite demo takes checkpoints of configs/demo/')
    size, patches = SIZES[checkpoint.embed_dim]
    if name == 'partial':
        return partial_suite() if size == 'l' else Suite('', {}, TOP1)
    task, metrics, entries = PUBLISHED[name]
    protocols = {}
    for key, (title, config) in entries.items():
        path = f'configs/{config.format(size=size, patches=patches)}.py'
        if find_config(path):
            scratch = path.replace('.py', '_scratch.py')
            protocols[key] = Protocol(
                title, scratch if key == 'finetune' else path, path, published=published_metrics(path))
    note = 'Published: from MAE pre-training of 1600 epochs.'
    return Suite(task, protocols, metrics, note, seeds=1, starts=('mae', ), save=True)


def partial_suite() -> Suite:
    """Partial fine-tuning of ViT-L (MAE, Fig. 9)."""
    published = {entry.name: entry.metrics for entry in read_metafiles()}
    path = 'configs/partial/vit_l16_in1k.py'
    protocols = {'k0': Protocol(
        'no block', None, 'configs/linear/vit_l16_in1k.py', published=published['linear_vit_l16_in1k-800e-raw'], at=0)}
    for k in (0.5, 1, 2, 4, 6, 12, 18):
        protocols[f'k{k}'] = Protocol(f'the last {k} of 24 blocks', None, path, {TUNED: k},
                                      published=published_metrics(path, f'{TUNED}={k}'), at=k)
    protocols['k24'] = Protocol('all 24 blocks', None, 'configs/ablation/finetune_vit_l16.py',
                                published=published['vit_l16_in1k-800e-raw'], at=24)
    note = 'Published: from MAE of 800 epochs on raw pixels, the best of 50, 100 and 200 epochs (`paper`).'
    return Suite('Partial fine-tuning, ImageNet-1K', protocols, TOP1, note, 1, ('mae', ), True, BLOCKS)


def vary_epochs(suite: Suite, epochs: Sequence[int]) -> Suite:
    """A suite in which each protocol that tunes blocks is run for each of several numbers of epochs."""
    protocols = {name: protocol for name, protocol in suite.protocols.items() if not protocol.at}
    protocols |= {
        f'{name}_{length}e': protocol._replace(
            title=f'{protocol.title}, {length} epochs', options={**protocol.options, 'train_cfg.max_epochs': length})
        for name, protocol in suite.protocols.items() if protocol.at for length in epochs}
    return suite._replace(protocols=protocols)


def measure_knn(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """Accuracy of k-NN with the frozen mean patch token, k = 20; nothing is trained."""
    from mae_mm.evaluation.knn import evaluate_encoder

    return {'accuracy/top1': evaluate_encoder(cfg, pretrained, ks=(20, ))['mean_patch/k20']}


def six_bands(task: str, preprocessor: str) -> dict[str, Protocol]:
    """Protocols on demo images of six bands: all of them, and the three that an encoder of three channels takes."""
    config = f'configs/demo/{task}_multiband.py'
    three = {'model.backbone.in_chans': ['red', 'green', 'blue'], f'{preprocessor}.mean': [19995, 19984, 20014],
             f'{preprocessor}.std': [2494, 2415, 2470],
             **{f'{part}_dataloader.dataset.pipeline.0.bands': [3, 2, 1] for part in ('train', 'val')}}
    return dict(six=Protocol('six bands', config.replace('.py', '_scratch.py'), config),
                three=Protocol('three of the bands', None, config, three, chans=3))


SUITES = {
    'demo-classification': Suite(
        'Few-label classification of demo images',
        dict(
            finetune=Protocol(
                'fine-tuning', 'configs/demo/classification_scratch.py', 'configs/demo/classification.py'),
            linear=Protocol('linear probing', *['configs/demo/classification_linear.py'] * 2, cost=0.45),
            attentive=Protocol('attentive probing', *['configs/demo/classification_attentive.py'] * 2, cost=0.5),
            partial1=Protocol('partial fine-tuning, k = 1', None, 'configs/demo/classification_partial.py', cost=0.5),
            partial4=Protocol(
                'partial fine-tuning, k = 4', None, 'configs/demo/classification_partial.py', {TUNED: 4}, cost=0.8),
            knn=Protocol('k-NN, k = 20', *['configs/demo/classification.py'] * 2, cost=0.05, measure=measure_knn)),
        TOP1, 'Chance is 8.3.'),
    'demo-partial': Suite(
        'Partial fine-tuning on few labels of demo images',
        {f'k{k}': Protocol(f'the last {k} of 6 blocks', None, config, options, at=k) for k, config, options in (
            (0, 'configs/demo/classification_linear.py', {}),
            *((k, 'configs/demo/classification_partial.py', {TUNED: k}) for k in (0.5, 1, 2, 4)),
            (6, 'configs/demo/classification.py', {}))},
        TOP1, 'Chance is 8.3.', starts=('mae', ), axis=BLOCKS),
    'demo-detection': Suite(
        'Mask R-CNN on demo images',
        dict(mask_rcnn=Protocol('Mask R-CNN', 'configs/demo/detection_scratch.py', 'configs/demo/detection.py')),
        DEMO_AP,
        'AP: mean over IoU 0.50:0.95, pycocotools.', seeds=2),
    'demo-segmentation': Suite(
        'UperNet on demo images',
        dict(upernet=Protocol('UperNet', 'configs/demo/segmentation_scratch.py', 'configs/demo/segmentation.py')),
        DEMO_MIOU,
        'Twenty classes; mIoU and class accuracy are means over them.', seeds=2),
    'multiband-classification': Suite(
        'Classification of six-band images', six_bands('classification', 'data_preprocessor'), TOP1, 'Chance is 25.'),
    'multiband-detection': Suite(
        'Mask R-CNN on six-band images', six_bands('detection', 'model.data_preprocessor'),
        DEMO_AP, 'AP: mean over IoU 0.50:0.95, pycocotools.'),
    'multiband-segmentation': Suite(
        'UperNet on six-band images', six_bands('segmentation', 'model.data_preprocessor'),
        DEMO_MIOU, 'Five classes, one of them the ground.'),
}
