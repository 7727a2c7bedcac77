import math

import pytest
import torch
from mmengine.evaluator import Evaluator

from mae_mm.evaluation.metrics import ReconstructionMetric


def sample(loss: float, patch_mean: float, interpolation: float, flat: float = 0.0) -> dict:
    return dict(
        loss=torch.tensor(loss), patch_mean=torch.tensor(patch_mean), interpolation=torch.tensor(interpolation),
        flat=torch.tensor(flat), reconstruction=torch.zeros(3, 4, 4), mask=torch.ones(4, dtype=torch.bool))


def evaluate(*batches: list[dict]) -> dict[str, float]:
    metric = ReconstructionMetric()
    for batch in batches:
        metric.process({}, batch)
    return metric.evaluate(sum(len(batch) for batch in batches))


def test_means_over_images_and_margin():
    out = evaluate([sample(0.2, 1.0, 0.9), sample(0.4, 1.0, 0.7)], [sample(0.6, 1.0, 0.8)])
    assert out == pytest.approx({
        'recon/loss': 0.4,  # of images, not of batches: (0.2 + 0.4 + 0.6) / 3
        'recon/patch_mean': 1.0, 'recon/interpolation': 0.8, 'recon/margin': 0.5})


@pytest.mark.parametrize('loss, patch_mean, interpolation, margin', [
    (0.5, 1.0, 2.0, 0.5), (0.5, 2.0, 1.0, 0.5), (1.0, 1.0, 2.0, 0.0), (3.0, 1.0, 2.0, -2.0)])
def test_margin_is_over_the_better_baseline(loss, patch_mean, interpolation, margin):
    assert evaluate([sample(loss, patch_mean, interpolation)])['recon/margin'] == pytest.approx(margin)


def test_blank_images_do_not_end_a_run():
    """Constant images: both baselines are exact, so the margin says no more than that nothing can be gained."""
    margin = evaluate([sample(0.5, 0.0, 0.0)])['recon/margin']
    assert margin <= 0 or math.isnan(margin)


def test_flat_patches_are_counted_and_blank_images_left_out():
    out = evaluate([sample(0.2, 1.0, 0.8, flat=0.5), sample(0.0, 0.0, 0.0, flat=1.0), sample(0.4, 0.9, 0.8)])
    assert out == pytest.approx({
        'recon/loss': 0.3, 'recon/patch_mean': 0.95, 'recon/interpolation': 0.8, 'recon/margin': 1 - 0.3 / 0.8,
        'recon/flat': 0.5})
    assert 'recon/flat' not in evaluate([sample(0.2, 1.0, 0.9)])


def test_metric_is_found_by_its_name():
    evaluator = Evaluator(dict(type='mae_mm.ReconstructionMetric'))
    evaluator.process(data_batch={}, data_samples=[sample(0.25, 1.0, 0.5)])
    assert evaluator.evaluate(1)['recon/margin'] == pytest.approx(0.5)
