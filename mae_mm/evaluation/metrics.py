"""Quality of the reconstruction of held-out images."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mae_mm.registry import METRICS


@METRICS.register_module()
class ReconstructionMetric(BaseMetric):
    """Masked loss on held-out images beside two baselines without learning (see `targets.baseline_losses`).

    Reports `recon/loss`, `recon/patch_mean`, `recon/interpolation` (means over images, in units of the target) and
    `recon/margin`: 1 - loss / better baseline. A margin of 0 or less means that nothing has been learned yet.
    """

    default_prefix = 'recon'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        names = ('loss', 'patch_mean', 'interpolation')
        self.results += [{name: float(sample[name]) for name in names} for sample in data_samples]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        means = {name: sum(row[name] for row in results) / len(results) for name in results[0]}
        baseline = min(means['patch_mean'], means['interpolation'])  # 0 for blank images
        return {**means, 'margin': 1 - means['loss'] / baseline if baseline else float('nan')}
