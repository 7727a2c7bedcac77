"""Quality of the reconstruction of held-out images."""

from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from mae_mm.registry import METRICS

BASELINES = ('patch_mean', 'interpolation')


@METRICS.register_module()
class ReconstructionMetric(BaseMetric):
    """Masked loss on held-out images beside two baselines without learning (`baselines` in `mae_mm.models.targets`).

    Reports `recon/loss`, `recon/patch_mean`, `recon/interpolation` (means over images, in units of the target) and
    `recon/margin`: 1 - loss / better baseline. A margin of 0 or less means that nothing has been learned yet. If the
    images have flat patches, which these numbers leave out, `recon/flat` is their share of the masked patches.
    """

    default_prefix = 'recon'

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        names = ('loss', *BASELINES, 'flat')
        self.results += [{name: float(sample[name]) for name in names} for sample in data_samples]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        flat = sum(row['flat'] for row in results) / len(results)
        judged = [row for row in results if row['flat'] < 1] or results  # images that are not blank
        means = {name: sum(row[name] for row in judged) / len(judged) for name in ('loss', *BASELINES)}
        baseline = min(means[name] for name in BASELINES)  # 0 if all images are blank
        margin = 1 - means['loss'] / baseline if baseline else float('nan')
        return {**means, 'margin': margin, **(dict(flat=flat) if flat else {})}
