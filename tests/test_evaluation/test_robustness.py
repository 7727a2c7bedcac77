"""ImageNet-C, -A, -R, -Sketch: labels from folder names, and both metrics by hand."""

from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS, METRICS

from mae_mm.evaluation import robustness
from mae_mm.evaluation.robustness import ALEXNET_ERRORS, MeanCorruptionError, SubsetAccuracy

TENCH, GOLDFISH, TOILET_TISSUE = 'n01440764', 'n01443537', 'n15075141'  # classes 0, 1 and 999


def ImageNetVariant(root: str) -> robustness.ImageNetVariant:
    return robustness.ImageNetVariant(data_root=root, serialize_data=False)


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def test_labels_are_those_of_imagenet(tmp_path):
    """Not the rank among the folders that happen to be there. README.txt of the archives is no image."""
    dataset = ImageNetVariant(touch(
        tmp_path, f'{TOILET_TISSUE}/a.jpg', f'{TENCH}/b.JPEG', f'{GOLDFISH}/c.png', 'README.txt'))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [(Path(info['img_path']).name, info['gt_label']) for info in infos] == [
        ('b.JPEG', 0), ('c.png', 1), ('a.jpg', 999)]
    assert dataset.metainfo['labels'] == [0, 1, 999]
    assert len(dataset.metainfo['classes']) == 1000


def test_corruptions_are_folders_above(tmp_path):
    dataset = ImageNetVariant(touch(tmp_path, f'fog/1/{TENCH}/a.JPEG', f'fog/2/{GOLDFISH}/a.JPEG'))
    assert [dataset.get_data_info(i)['gt_label'] for i in range(2)] == [0, 1]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'tench/a\.jpg' is not a WordNet id"):
        ImageNetVariant(touch(tmp_path, 'tench/a.jpg'))


def test_missing_data_show_the_layout(tmp_path):
    with pytest.raises(FileNotFoundError, match='ROOT/<corruption>/<1…5>'):
        ImageNetVariant(str(tmp_path / 'nothing'))


def test_subset_accuracy_by_hand():
    """Classes 1 and 3 of four: the first image's best score, class 0, cannot be answered."""
    metric = SubsetAccuracy()
    metric.dataset_meta = dict(labels=[1, 3])
    scores = torch.tensor([[0.9, 0.06, 0.0, 0.04], [0.1, 0.2, 0.6, 0.1], [0.0, 0.3, 0.3, 0.4], [0.0, 0.6, 0.0, 0.4]])
    labels = [1, 1, 3, 3]
    metric.process({}, [dict(pred_score=s, gt_label=torch.tensor([y])) for s, y in zip(scores, labels, strict=True)])
    assert metric.evaluate(4) == {'accuracy/top1': 75.0}


def samples(corruption: str, severity: int, wrong: int, total: int) -> list[dict]:
    return [
        dict(img_path=f'/data/{corruption}/{severity}/{TENCH}/{i}.JPEG', gt_label=torch.tensor([0]),
             pred_label=torch.tensor([int(i < wrong)])) for i in range(total)]


def test_mean_corruption_error_by_hand():
    """Errors 10, 20, 30, 40 and 50 % at the severities of fog, 25 % everywhere else."""
    metric, count = MeanCorruptionError(), 0
    for corruption in ALEXNET_ERRORS:
        for severity in range(1, 6):
            wrong, total = (severity, 10) if corruption == 'fog' else (1, 4)
            rows = samples(corruption, severity, wrong, total)
            metric.process({}, rows)
            count += len(rows)
    metric.process({}, samples('spatter', 1, 4, 4))  # an "extra" corruption does not count
    metrics = metric.evaluate(count)
    assert metrics['corruption/fog'] == pytest.approx(100 * 30 / 81.9324)
    assert metrics['corruption/brightness'] == pytest.approx(100 * 25 / 56.4592)
    others = sum(2500 / error for name, error in ALEXNET_ERRORS.items() if name != 'fog')
    assert metrics['corruption/mCE'] == pytest.approx((3000 / 81.9324 + others) / 15)


def test_no_mean_without_all_folders():
    metric = MeanCorruptionError()
    for severity in range(1, 6):
        metric.process({}, samples('snow', severity, 1, 2))
    metric.process({}, samples('frost', 1, 1, 2))
    assert metric.evaluate(12) == {'corruption/snow': pytest.approx(100 * 50 / 86.6816)}


def test_alexnet_has_an_error_of_100():
    """By definition; the numbers are those of the authors' code, in its order."""
    published = (
        .886428, .894468, .922640, .819880, .826268, .785948, .798360, .866816, .826572, .819324, .564592, .853204,
        .646056, .717840, .606500)
    metric = MeanCorruptionError()
    for name, error in zip(ALEXNET_ERRORS, published, strict=True):
        for severity in range(1, 6):
            metric.process({}, samples(name, severity, round(250 * error), 250))
    assert metric.evaluate(len(metric.results))['corruption/mCE'] == pytest.approx(100, abs=0.1)


def test_types_resolve():
    assert METRICS.get('mae_mm.SubsetAccuracy') is SubsetAccuracy
    assert DATASETS.get('mae_mm.ImageNetVariant') is robustness.ImageNetVariant
