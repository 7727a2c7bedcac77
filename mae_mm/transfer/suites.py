"""The comparisons that `tools/transfer.py` offers by name."""

from mmengine.config import Config

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.transfer.types import Metric, Protocol, Suite


def measure_knn(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """Accuracy of k-NN with the frozen mean patch token, k = 20; nothing is trained."""
    from mae_mm.evaluation.knn import evaluate_encoder

    return {'accuracy/top1': evaluate_encoder(cfg, pretrained, ks=(20, ))['mean_patch/k20']}


def _demo(name: str) -> str:
    return f'configs/demo/{name}.py'


GROUPS = {'demo': ('demo-classification', 'demo-detection', 'demo-segmentation'),
          'all': ('imagenet', 'coco', 'ade20k', 'inat', 'places')}
PUBLISHED = (*GROUPS['all'], 'partial')
SIZES = {768: 'b', 1024: 'l', 1280: 'h'}  # by width
PATCHES = dict(b='b16', l='l16', h='h14')
BLOCKS = 'blocks that are fine-tuned'
TOP1 = {'accuracy/top1': Metric('top-1')}
BOX_MASK = {'coco/bbox_mAP': Metric('box AP', 100.0), 'coco/segm_mAP': Metric('mask AP', 100.0)}

# Published results from MAE pre-training of 1600 epochs: all from the MAE paper but ViTDet's (arXiv:2203.16527).
FINE_TUNING = dict(b=83.6, l=85.9, h=86.9)
LINEAR_PROBING = dict(b=68.0, l=75.8, h=76.6)
MASK_RCNN = dict(b=(50.3, 44.9), l=(53.3, 47.2))
VITDET = dict(b=(51.6, 45.9), l=(55.5, 49.2), h=(56.7, 50.2))
UPERNET = dict(b=48.1, l=53.6)
PARTIAL = {0: 73.5, 0.5: 79.1, 1: 81.0, 2: None, 4: None, 6: None, 12: None, 18: None, 24: 84.9}  # Fig. 9, its text
INAT = {2017: dict(b=70.5, l=75.7, h=79.3), 2018: dict(b=75.4, l=80.1, h=83.0), 2019: dict(b=80.5, l=83.4, h=85.7)}
PLACES = {205: dict(b=63.9, l=65.8, h=65.9), 365: dict(b=57.9, l=59.4, h=59.8)}


def find_suites(name: str, checkpoint: Checkpoint) -> dict[str, Suite]:
    """The suites of a name or of a group (demo, all); those on real data are for the size of the checkpoint.

    A suite of a group is left out where the paper has none for this size: UperNet with ViT-H.

    Raises:
        ValueError: for an unknown name, or a checkpoint of no published size.
    """
    names = GROUPS.get(name, (name, ))
    if unknown := [name for name in names if name not in (*SUITES, *PUBLISHED)]:
        raise ValueError(f'--suite {unknown[0]!r} is none of {", ".join([*SUITES, *PUBLISHED, *GROUPS])}')
    if name == 'all' and SIZES.get(checkpoint.embed_dim, 'b') not in UPERNET:
        names = [name for name in names if name != 'ade20k']
    return {name: SUITES[name] if name in SUITES else published_suite(name, checkpoint) for name in names}


def published_suite(name: str, checkpoint: Checkpoint) -> Suite:
    """The transfers of the paper on one data set, long runs from the checkpoint alone, with the published results."""
    if checkpoint.embed_dim not in SIZES:
        raise ValueError(
            f'{checkpoint.source} is a {checkpoint}; there are recipes for ViT-B, -L and -H (768, 1024, 1280 wide). '
            '--suite demo takes checkpoints of configs/demo/')
    size = SIZES[checkpoint.embed_dim]
    patches = PATCHES[size]

    def protocol(title: str, config: str, *published: float, metrics: dict = TOP1) -> Protocol:
        path = f'configs/{config}.py'
        return Protocol(title, path, path, published=dict(zip(metrics, published, strict=bool(published))))

    if name == 'coco':
        protocols = dict(vitdet=protocol('ViTDet', f'detection/vitdet_{size}_coco', *VITDET[size], metrics=BOX_MASK))
        if size in MASK_RCNN:
            protocols['mask_rcnn'] = protocol(
                'Mask R-CNN', f'detection/mask_rcnn_vit_{size}_coco', *MASK_RCNN[size], metrics=BOX_MASK)
        return _long('Object detection and instance segmentation, COCO', protocols, BOX_MASK)
    if name == 'ade20k':
        if size not in UPERNET:
            raise ValueError('--suite ade20k: the paper has no UperNet with ViT-H; there are recipes for ViT-B and -L')
        metrics = {'mIoU': Metric('mIoU')}
        config = f'segmentation/upernet_vit_{size}_ade20k'
        return _long('Semantic segmentation, ADE20K', dict(
            upernet=protocol('UperNet', config, UPERNET[size], metrics=metrics)), metrics)
    if name == 'imagenet':
        return _long('Classification, ImageNet-1K', dict(
            finetune=protocol('fine-tuning', f'classification/vit_{patches}_in1k', FINE_TUNING[size])._replace(
                random=f'configs/classification/vit_{patches}_in1k_scratch.py'),
            linear=protocol('linear probing', f'linear/vit_{patches}_in1k', LINEAR_PROBING[size])), TOP1)
    if name == 'partial':
        if size != 'l':
            raise ValueError('--suite partial: the recipes are for ViT-L, as in the paper (Fig. 9)')
        suite = _long('Partial fine-tuning, ImageNet-1K', {f'k{k}': protocol(
            f'the last {k} of 24 blocks', f'partial/vit_l16_in1k_k{k}'.replace('.', '_'), *[top1] * (top1 is not None),
        )._replace(at=k) for k, top1 in PARTIAL.items()}, TOP1)
        return suite._replace(axis=BLOCKS, note='Published: from MAE of 800 epochs on raw pixels (`paper`).')
    if name == 'inat':
        return _long('Classification, iNaturalist', {f'inat{year}': protocol(
            f'iNaturalist {year}', f'classification/inat/vit_{patches}_inat{year}', published[size])
            for year, published in INAT.items()}, TOP1)
    return _long('Classification, Places', {f'places{classes}': protocol(
        f'Places{classes}', f'classification/places/vit_{patches}_places{classes}', published[size])
        for classes, published in PLACES.items()}, TOP1)


def _long(task: str, protocols: dict[str, Protocol], metrics: dict[str, Metric]) -> Suite:
    note = 'Published: from MAE pre-training of 1600 epochs (`paper`).'
    return Suite(task, protocols, metrics, note, seeds=1, starts=('mae', ), save=True)


SUITES = {
    'demo-classification': Suite(
        'Few-label classification of demo images',
        dict(
            finetune=Protocol('fine-tuning', _demo('classification_scratch'), _demo('classification')),
            linear=Protocol('linear probing', *[_demo('classification_linear')] * 2, cost=0.45),
            partial1=Protocol('partial fine-tuning, k = 1', None, _demo('classification_partial'), cost=0.5),
            partial4=Protocol(
                'partial fine-tuning, k = 4', None, _demo('classification_partial'),
                {'model.backbone.tuned_blocks': 4}, cost=0.8),
            knn=Protocol('k-NN, k = 20', *[_demo('classification')] * 2, cost=0.05, measure=measure_knn)),
        TOP1, 'Chance is 8.3.'),
    'demo-partial': Suite(
        'Partial fine-tuning on few labels of demo images',
        {f'k{k}': Protocol(f'the last {k} of 6 blocks', None, config, options, at=k) for k, config, options in (
            (0, _demo('classification_linear'), {}),
            *((k, _demo('classification_partial'), {'model.backbone.tuned_blocks': k}) for k in (0.5, 1, 2, 4)),
            (6, _demo('classification'), {}))},
        TOP1, 'Chance is 8.3.', starts=('mae', ), axis=BLOCKS),
    'demo-detection': Suite(
        'Mask R-CNN on demo images',
        dict(mask_rcnn=Protocol('Mask R-CNN', _demo('detection_scratch'), _demo('detection'))),
        {'coco/bbox_mAP': Metric('box AP', 100.0), 'coco/bbox_mAP_50': Metric('box AP50', 100.0),
         'coco/segm_mAP': Metric('mask AP', 100.0), 'coco/segm_mAP_50': Metric('mask AP50', 100.0)},
        'AP: mean over IoU 0.50:0.95, pycocotools.', seeds=2),
    'demo-segmentation': Suite(
        'UperNet on demo images',
        dict(upernet=Protocol('UperNet', _demo('segmentation_scratch'), _demo('segmentation'))),
        {'mIoU': Metric('mIoU'), 'mAcc': Metric('class accuracy'), 'aAcc': Metric('pixel accuracy')},
        'Twenty classes; mIoU and class accuracy are means over them.', seeds=2),
}
