"""Which meters of a pre-training tell how well its encoder will be fine-tuned? A table over many pre-trainings.

    python tools/ablate.py configs/ablation/*.py --base configs/demo/ablation.py --out work_dirs/ablation
    python -m mae_mm.benchmark.meters work_dirs/ablation --out work_dirs/meters

RUNS are output folders of tools/ablate.py, also while it still runs: pre-trainings that are not complete are left out,
those that are not fine-tuned yet count for linear accuracy only. What was measured is kept in OUT/meters.json, so that
the same command continues. Writes OUT/table.md and OUT/scatter.png.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from mae_mm.benchmark.meter_table import describe, draw_scatter
from mae_mm.checkpoint.files import write_beside
from mae_mm.engine.exits import exit_on_user_error
from mae_mm.engine.runner import load_config
from mae_mm.evaluation.knn import Features, extract_features, feature_loader, knn_accuracy
from mae_mm.evaluation.metrics import ReconstructionMetric
from mae_mm.evaluation.quality import OF_FEATURES, see
from mae_mm.registry import DATASETS
from mae_mm.transfer.tables import environment
from mae_mm.visualization.panels import load_model

MASKS = {'mask_ratio': 0.75, 'mask_sampling': 'random'}  # of the loss that all runs are compared by
C = [1e-2, 1e-1, 1.0]  # inverse strength of the regularisation, chosen on the training images of a fold


class Run(NamedTuple):
    """A pre-training and what became of it."""

    key: str  # of its configuration: equal for all seeds
    seed: int
    title: str
    folder: Path
    checkpoint: Path
    own: dict[str, float]  # loss and margin on held-out images, as its training validates
    finetune: float | None  # top-1, percent

    @property
    def name(self) -> str:
        return f'{self.key}_seed{self.seed}'


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], int]:
    """The complete pre-trainings of output folders of tools/ablate.py, each once; and how many are not complete."""
    found, unfinished = {}, set()
    for folder in folders:
        if not (folder / 'runs').is_dir():
            raise FileNotFoundError(f'{folder / "runs"}: no such folder; give output folders of tools/ablate.py')
        titles = {row['run']: row['title'] for file in sorted(folder.glob('*/results.json'))
                  for row in json.loads(file.read_text())['rows']}
        for place in sorted((folder / 'runs').glob('*_seed*/pretrain')):
            key, _, seed = place.parent.name.rpartition('_seed')
            pretrained, finetuned = (_metrics(place.parent / stage) for stage in ('pretrain', 'finetune'))
            if not pretrained:
                unfinished.add(place.parent.name)
                continue
            checkpoint = place / Path((place / 'last_checkpoint').read_text().strip()).name
            found[place.parent.name] = Run(
                key, int(seed), titles.get(key, key), place, checkpoint,
                {name: pretrained[f'recon/{name}'] for name in ('loss', 'margin')}, finetuned.get('accuracy/top1'))
    if not found:
        raise ValueError(f'no complete pre-training in {", ".join(map(str, folders))}')
    return list(found.values()), len(unfinished - set(found))


def _metrics(folder: Path) -> dict[str, float]:
    """Of a complete training; empty if it is not."""
    file = folder / 'result.json'
    return json.loads(file.read_text())['metrics'] if file.exists() else {}


def measure(run: Run, labelled: Sequence[Sequence[dict]]) -> dict:
    """All meters of a run, and the accuracy of its frozen features on `labelled` batches: of training, held-out."""
    files = sorted(run.folder.glob('*.py'))
    cfg = Config.fromfile(files[0], import_custom_modules=False)  # of the training, not of the model
    settings = {key: cfg.model.get(key, value) for key, value in MASKS.items()}
    target = (cfg.model.get('target') or {}).get('type') or (
        f'{"normalised" if cfg.model.get("norm_pix_loss", True) else "raw"} pixels {cfg.model.get("loss_type", "l2")}')
    cfg.model.update(MASKS)
    model = load_model(cfg, str(run.checkpoint))
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    images = [dataset[i] for i in range(len(dataset))]
    seen = see(model, images)
    values = {name: meter(seen.features) for name, meter in OF_FEATURES.items()}
    values.update({f'attention_distance_{i}': value for i, value in enumerate(seen.distances.tolist())})
    common = held_out(model, images)
    features = [extract_features(partial(model, mode='tensor'), model.data_preprocessor, part) for part in labelled]
    return dict(
        target=target, masks=f'{settings["mask_sampling"]} {settings["mask_ratio"]}', images=len(images), **values,
        attention_distance=seen.distances.mean().item(), common_loss=common['loss'], common_margin=common['margin'],
        knn=knn_accuracy(*features, (20, ))['mean_patch/k20'], linear=linear_accuracy(*features))


@torch.no_grad()
def held_out(model: nn.Module, images: Sequence[dict], batch_size: int = 128) -> dict[str, float]:
    """Held-out loss and margin of a masked autoencoder, under the masks of its validation."""
    metric = ReconstructionMetric()
    for start in range(0, len(images), batch_size):
        batch = images[start:start + batch_size]
        inputs = model.data_preprocessor(dict(inputs=torch.stack([image['inputs'] for image in batch])))['inputs']
        numbers = torch.tensor([image.get('sample_idx', start + i) for i, image in enumerate(batch)])
        metric.process({}, model.predict(inputs, sample_idx=numbers))
    return metric.compute_metrics(metric.results)


def linear_accuracy(first: Features, second: Features) -> float:
    """Top-1 in percent of a logistic regression on standardised mean patch tokens, in five folds of all images.

    All labelled images are tested, each by a model that was trained on others: a seventh of them alone, the held-out
    ones of the demo, would have a standard error as large as the differences between pre-trainings.
    """
    x, labels = (np.concatenate([getattr(part, name).numpy() for part in (first, second)])
                 for name in ('mean_patch', 'labels'))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)), {'logisticregression__C': C}, cv=3)
    return 100 * float(cross_val_score(search, x, labels, cv=StratifiedKFold(5, shuffle=True, random_state=0)).mean())


def labelled_batches(config: str) -> list[list[dict]]:
    """The training and the held-out images of a classification config, both through the pipeline of the latter."""
    cfg = load_config(config)
    init_default_scope(cfg.default_scope)
    val = cfg.val_dataloader.dataset
    train = {**cfg.train_dataloader.dataset, 'pipeline': val.pipeline, 'test_mode': True}
    return [list(feature_loader(dataset, num_workers=0)) for dataset in (train, val)]


def study(folders: Sequence[Path], out: Path, labelled: str, draws: int = 2000) -> str:
    """Measure what is not measured yet, then write the table and the picture; returns the table."""
    runs, unfinished = find_runs(folders)
    cache = out / 'meters.json'
    rows = json.loads(cache.read_text()) if cache.exists() else {}
    missing = [run for run in runs if run.name not in rows]
    batches = labelled_batches(labelled) if missing else []
    for run in tqdm(missing, desc='pre-trainings', unit='run', disable=None):
        rows[run.name] = measure(run, batches)
        text = json.dumps(rows, indent=1)
        write_beside(cache, lambda partial, text=text: partial.write_text(text))
    table = [dict(rows[run.name], key=run.key, seed=run.seed, title=run.title, loss=run.own['loss'],
                  margin=run.own['margin'], finetune=np.nan if run.finetune is None else run.finetune) for run in runs]
    text = describe(table, draws)
    if unfinished:
        text += f'\n\nNot complete, and left out: {unfinished} pre-trainings.'
    text += f'\n\n{environment()}\n'
    write_beside(out / 'table.md', lambda partial: partial.write_text(text))
    draw_scatter(table, out / 'scatter.png')
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('runs', nargs='+', type=Path, metavar='RUNS', help='output folders of tools/ablate.py')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/meters'), help='default: %(default)s')
    parser.add_argument('--labelled', default='configs/demo/ablation_finetune.py', metavar='CONFIG',
                        help='classification config whose images linear and k-NN accuracy use (default: %(default)s)')
    parser.add_argument('--draws', type=int, default=2000, help='of the bootstrap (default: %(default)s)')
    args = parser.parse_args()
    logging.disable(logging.INFO)
    exit_on_user_error(lambda: print(study(args.runs, args.out, args.labelled, args.draws)),
                       'the same command continues')


if __name__ == '__main__':
    main()
