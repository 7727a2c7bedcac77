"""Metrics under any weights of the test images, as a bootstrap needs them: what each image contributes is kept."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

Score = Callable[[np.ndarray], np.ndarray]  # (R, T) weights of T test images, each row adds to 1 -> (R,) percent
RECALLS = np.linspace(0, 1, 101)  # at which COCO samples the precision


class KeepContributions(Hook):
    """Write what each test image contributes to the metric into a .npz file, in the order of the images."""

    def __init__(self, task: str, path: Path) -> None:
        self.contributions, self.path = CONTRIBUTIONS[task], path

    def before_val(self, runner: Runner) -> None:
        metric, = runner.val_loop.evaluator.metrics

        def compute_and_keep(results: list) -> dict:
            values = type(metric).compute_metrics(metric, results)
            np.savez_compressed(self.path, **self.contributions(metric, results))
            return values or dict(bbox_mAP=0.0, segm_mAP=0.0)  # mmdet has no value where nothing was found

        metric.compute_metrics = compute_and_keep


def load_score(path: Path) -> Score:
    """The metric of a run from what `KeepContributions` wrote."""
    with np.load(path) as content:
        kept = dict(content)
    if 'hits' in kept:
        return hit_rate(kept['hits'])
    if 'areas' in kept:
        return lambda weights: mean_iou(weights @ kept['areas'])
    return lambda weights: average_precision(weights, **kept)


def hit_rate(hits: np.ndarray) -> Score:
    """Percent correct, from (T,) 0 or 1."""
    return lambda weights: 100 * weights @ hits


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """Percent, from (…, 2 C) mean intersections and unions of C classes; classes that no image has do not count."""
    intersection, union = np.split(areas, 2, axis=-1)
    with np.errstate(divide='ignore', invalid='ignore'):
        return 100 * np.nanmean(np.where(union > 0, intersection / union, np.nan), axis=-1)


def average_precision(
    weights: np.ndarray, category: np.ndarray, image: np.ndarray, score: np.ndarray, matched: np.ndarray,
    counted: np.ndarray, positives: np.ndarray,
) -> np.ndarray:
    """COCO's box AP, in percent, with weighted images: (R, T) -> (R,).

    Args:
        category, image, score: (D,) of each detection: number of its category and image, and its confidence.
        matched: (D, 10) bool, whether it found an object at each of COCO's IoU thresholds.
        counted: (D, 10) bool; the others are crowds', which neither help nor harm.
        positives: (T, C) number of objects.
    """
    objects = weights @ positives  # (R, C)
    total = np.zeros(len(weights))
    for number in range(positives.shape[1]):
        rows = np.flatnonzero(category == number)
        rows = rows[np.argsort(-score[rows], kind='stable')]
        of_rows = weights[:, image[rows]]  # (R, D)
        for threshold in range(matched.shape[1]):
            right, counts = matched[rows, threshold], counted[rows, threshold]
            found, wrong = (np.cumsum(of_rows * (kind & counts), 1) for kind in (right, ~right))
            with np.errstate(divide='ignore', invalid='ignore'):
                recall, precision = found / objects[:, number, None], np.nan_to_num(found / (found + wrong))
            precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
            precision = np.pad(precision, ((0, 0), (0, 1)))  # a recall that was not reached
            for i, one in enumerate(recall):
                total[i] += precision[i, np.searchsorted(one, RECALLS - 1e-9)].mean() / matched.shape[1]
    return 100 * total / np.maximum((objects > 0).sum(1), 1)


def _classification(metric: BaseMetric, results: list[dict]) -> dict[str, np.ndarray]:
    return dict(hits=np.array([float(one['pred_score'].argmax() == one['gt_label']) for one in results]))


def _segmentation(metric: BaseMetric, results: list[tuple]) -> dict[str, np.ndarray]:
    return dict(areas=np.array([np.concatenate([intersection, union]) for intersection, union, *_ in results]))


def _detection(metric: BaseMetric, results: list[tuple]) -> dict[str, np.ndarray]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    order = {truth['img_id']: number for number, (truth, _) in enumerate(results)}
    found = [dict(image_id=one['img_id'], category_id=metric.cat_ids[label], bbox=metric.xyxy2xywh(box), score=score)
             for _, one in results for box, score, label in zip(
                 one['bboxes'], one['scores'].tolist(), one['labels'], strict=True)]
    detections = COCO()
    detections.dataset = dict(metric._coco_api.dataset, annotations=found)
    for number, one in enumerate(found, 1):
        one.update(id=number, iscrowd=0, area=one['bbox'][2] * one['bbox'][3])
    detections.createIndex()
    evaluation = COCOeval(metric._coco_api, detections, 'bbox')
    evaluation.params.imgIds, evaluation.params.catIds = list(order), metric.cat_ids
    evaluation.evaluate()
    whole = evaluation.params.areaRng[0]
    positives = np.zeros((len(results), len(metric.cat_ids)))
    columns = {key: [] for key in ('category', 'image', 'score', 'matched', 'counted')}
    for one in evaluation.evalImgs:
        if one is None or one['aRng'] != whole:
            continue
        image, category = order[one['image_id']], metric.cat_ids.index(one['category_id'])
        positives[image, category] = (~np.array(one['gtIgnore'], bool)).sum()
        columns['category'] += [category] * len(one['dtScores'])
        columns['image'] += [image] * len(one['dtScores'])
        columns['score'] += one['dtScores']
        columns['matched'] += list(one['dtMatches'].T > 0)
        columns['counted'] += list(~one['dtIgnore'].T.astype(bool))
    shapes = dict(category=(int, ()), image=(int, ()), score=(float, ()), matched=(bool, (10,)), counted=(bool, (10,)))
    return dict(positives=positives, **{key: np.array(columns[key], kind).reshape(-1, *shape)
                                        for key, (kind, shape) in shapes.items()})


CONTRIBUTIONS = dict(classification=_classification, segmentation=_segmentation, detection=_detection)
