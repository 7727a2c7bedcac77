"""Metrics of weighted images are those that the hosts report for whole data sets."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mae_mm.transfer.per_image import KeepContributions, load_score, mean_iou

IMAGES = 12
EVEN = np.full((1, IMAGES), 1 / IMAGES)


def test_mean_iou_of_means() -> None:
    assert mean_iou(np.array([2.0, 0, 4, 0])) == 50  # the second class is nowhere


@pytest.fixture
def boxes(tmp_path: Path) -> tuple[object, list]:
    """mmdet's metric, and results with near, far, doubled and missing boxes, and a crowd."""
    from mmdet.evaluation import CocoMetric

    rng = np.random.default_rng(0)
    annotations, results = [], []
    for image in range(IMAGES):
        corners = rng.integers(0, 60, (4, 2)).astype(float)
        truth = np.concatenate([corners, corners + rng.integers(8, 40, (4, 2))], 1)
        labels = rng.integers(0, 3, 4)
        for number, (box, label) in enumerate(zip(truth, labels, strict=True)):
            width, height = box[2:] - box[:2]
            annotations.append(dict(
                id=len(annotations) + 1, image_id=7 * image, category_id=int(label) + 5, area=width * height,
                bbox=[*box[:2], width, height], iscrowd=int(image == 3 and number == 0)))
        found = np.concatenate([truth[1:], truth[:2], rng.integers(0, 90, (3, 4))]) + rng.normal(0, 3, (8, 4))
        scores = rng.random(8).round(1)  # some are equal
        names = np.concatenate([labels[1:], labels[:2], rng.integers(0, 3, 3)])
        results.append((dict(img_id=7 * image, width=100, height=100),
                        dict(img_id=7 * image, bboxes=found, scores=scores, labels=names)))
    (tmp_path / 'truth.json').write_text(json.dumps(dict(
        images=[dict(id=7 * image, file_name=f'{image}.jpg', width=100, height=100) for image in range(IMAGES)],
        annotations=annotations, categories=[dict(id=5 + i, name=f'class {i}') for i in range(3)])))
    metric = CocoMetric(ann_file=str(tmp_path / 'truth.json'), metric='bbox')
    metric.dataset_meta = dict(classes=('class 0', 'class 1', 'class 2'))
    return metric, results


def keep(metric: object, results: list, path: Path, task: str) -> dict:
    runner = type('Runner', (), {})()
    runner.val_loop = type('Loop', (), {})()
    runner.val_loop.evaluator = type('Evaluator', (), dict(metrics=[metric]))()
    KeepContributions(task, path).before_val(runner)
    return metric.compute_metrics(results)


def test_average_precision_is_that_of_coco(boxes: tuple, tmp_path: Path) -> None:
    metric, results = boxes
    values = keep(metric, results, tmp_path / 'per_image.npz', 'detection')
    score = load_score(tmp_path / 'per_image.npz')
    assert 5 < 100 * values['bbox_mAP'] < 95
    assert score(EVEN)[0] == pytest.approx(100 * values['bbox_mAP'], abs=0.051)  # mmdet rounds to three digits

    half = np.zeros((2, IMAGES))  # two rows, the second with half of the images
    half[0], half[1, ::2] = 1 / IMAGES, 2 / IMAGES
    kept = [one for one in results if one[0]['img_id'] % 14 == 0]
    content = metric._coco_api.dataset
    (tmp_path / 'half.json').write_text(json.dumps(dict(
        content, images=[one for one in content['images'] if one['id'] % 14 == 0],
        annotations=[one for one in content['annotations'] if one['image_id'] % 14 == 0])))
    other = type(metric)(ann_file=str(tmp_path / 'half.json'), metric='bbox')
    other.dataset_meta = metric.dataset_meta
    assert score(half)[1] == pytest.approx(100 * other.compute_metrics(kept)['bbox_mAP'], abs=0.051)


def test_a_detector_that_finds_nothing_has_no_precision(boxes: tuple, tmp_path: Path) -> None:
    metric, results = boxes
    empty = dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0, int))
    values = keep(metric, [(truth, dict(one, **empty)) for truth, one in results], tmp_path / 'none.npz', 'detection')
    assert values['bbox_mAP'] == 0 and load_score(tmp_path / 'none.npz')(EVEN) == [0]


def test_classes_and_label_maps(tmp_path: Path) -> None:
    from mmpretrain.evaluation import Accuracy
    from mmseg.evaluation import IoUMetric

    results = [dict(pred_score=torch.eye(3)[i % 3], gt_label=torch.tensor([i % 2])) for i in range(IMAGES)]
    value = keep(Accuracy(topk=1), results, tmp_path / 'hits.npz', 'classification')['top1']
    assert load_score(tmp_path / 'hits.npz')(EVEN) == pytest.approx([value]) and 0 < value < 100
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=('a', 'b'))
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.integers(0, 2, (IMAGES, 2, 8, 8)))
    results = [metric.intersect_and_union(one, other, 2, 255) for one, other in maps]
    value = keep(metric, results, tmp_path / 'areas.npz', 'segmentation')['mIoU']
    assert load_score(tmp_path / 'areas.npz')(EVEN) == pytest.approx([value], abs=0.01)
