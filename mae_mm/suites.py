"""The comparisons that `tools/transfer.py` offers by name."""

from mmengine.config import Config

from mae_mm.comparison import Metric, Protocol, Suite


def measure_knn(cfg: Config, pretrained: str | None) -> dict[str, float]:
    """Accuracy of k-NN with the frozen mean patch token, k = 20; nothing is trained."""
    from mae_mm.knn import evaluate_encoder

    return {'accuracy/top1': evaluate_encoder(cfg, pretrained, ks=(20, ))['mean_patch/k20']}


def _demo(name: str) -> str:
    return f'configs/demo/{name}.py'


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
        {'accuracy/top1': Metric('top-1')},
        'Chance is 8.3.'),
}
