"""Are the verdicts of `tools/transfer.py --data` right where the truth is known? And are copies found?

    python -m mae_mm.benchmark.verdicts CHECKPOINT --data data/demo/imagenet

Replicas of the verdict with a cheap protocol: frozen features, computed once, and classifiers that take no time. A
replica draws another split of the images, and for each name, seed and number of labels training images of its own.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
from mmengine.registry import init_default_scope
from mmengine.runner import set_random_seed
from PIL import Image, ImageOps
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from mae_mm.checkpoint.contents import read_checkpoint
from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.datasets.labelled import Labelled, find_labelled
from mae_mm.datasets.leaks import find_leaks, fingerprint
from mae_mm.datasets.limits import open_image, read_file
from mae_mm.evaluation.knn import extract_features, feature_loader
from mae_mm.registry import MODELS
from mae_mm.transfer.own_recipes import own_config, use_images
from mae_mm.transfer.per_image import hit_rate
from mae_mm.transfer.tables import environment, markdown_table
from mae_mm.transfer.verdict import compare, make_curves

LABELS, SEEDS, TEST = (150, 600, 2400), 3, 500
CLASSIFIERS = {
    'k-NN (cosine, k = 10)': lambda: KNeighborsClassifier(10, metric='cosine'),
    'linear (ridge)': lambda: make_pipeline(StandardScaler(), RidgeClassifier(100.0))}


def features_of(data: Labelled, checkpoint: str, pretrained: bool) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) mean patch tokens of all images under an encoder, pre-trained or random, and (N,) labels."""
    cfg = own_config(data, read_checkpoint(checkpoint), 1, 1.0)
    init_default_scope('mmpretrain')
    set_random_seed(0)
    backbone = MODELS.build({**cfg.model.backbone, 'out_type': 'raw'})
    backbone.init_weights()
    if pretrained:
        load_pretrained(backbone, checkpoint)
    preprocessor = MODELS.build({'type': 'ClsDataPreprocessor', **cfg.data_preprocessor})
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        use_images(cfg, data, data.train, data.test)
        found = [extract_features(backbone.eval(), preprocessor, feature_loader(cfg[f'{side}_dataloader'].dataset))
                 for side in ('val', 'train')]
    return (np.concatenate([one.mean_patch.numpy() for one in found]),
            np.concatenate([one.labels.numpy() for one in found]))


def verdict_of(
    first: np.ndarray, second: np.ndarray, labels: np.ndarray, make: Callable, rng: np.random.Generator,
) -> float:
    """The difference of two starts where it is beyond chance, else 0."""
    order = rng.permutation(len(labels))
    test, pool = order[:TEST], order[TEST:]

    def scores(features: np.ndarray, number: int) -> list[Callable]:
        hits = []
        for _ in range(SEEDS):
            train = rng.permutation(pool)[:number]
            hits.append((make().fit(features[train], labels[train]).predict(features[test]) == labels[test]) * 1.0)
        return [hit_rate(one) for one in hits]

    curves = make_curves({name: {number: scores(features, number) for number in LABELS}
                          for name, features in dict(A=first, B=second).items()}, TEST)
    pair, = compare(curves, 'top-1')
    return pair.difference if pair.factor else 0.0


def count_verdicts(data: Labelled, checkpoint: str, replicas: int) -> list[list]:
    """Rows of a table: scenario, classifier, replicas without difference, replicas in which A is better, and worse."""
    trained, labels = features_of(data, checkpoint, pretrained=True)
    random, _ = features_of(data, checkpoint, pretrained=False)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        for sample in (*data.train, *data.test):
            path = Path(folder, sample.name).with_suffix('.png')
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)).save(path)
        noise = find_labelled(folder)
        noise_trained, noise_labels = features_of(noise, checkpoint, pretrained=True)
        noise_random, _ = features_of(noise, checkpoint, pretrained=False)
    scenarios = {
        'one checkpoint under two names': (trained, trained, labels),
        'pre-trained against random weights': (trained, random, labels),
        'the same on images of noise': (noise_trained, noise_random, noise_labels)}
    rows = []
    for scenario, arrays in scenarios.items():
        for name, make in CLASSIFIERS.items():
            found = np.array([verdict_of(*arrays, make, np.random.default_rng([7, replica]))
                              for replica in tqdm(range(replicas), desc=f'{scenario}: {name}', disable=None)])
            rows.append([scenario, name, (found == 0).sum(), (found > 0).sum(), (found < 0).sum()])
    return rows


def count_copies(data: Labelled) -> list[list]:
    """Rows of a table: kind of copy of the test images, how many are found among all images, and how many are not."""
    names = [f'{data.root}/{sample.name}' for sample in (*data.train, *data.test)]
    tests = names[len(data.train):]
    everything = fingerprint(names)

    def change(name: str, how: Callable[[Image.Image], Image.Image]) -> bytes:
        how(open_image(BytesIO(read_file(name))).convert('RGB')).save(buffer := BytesIO(), 'JPEG', quality=60)
        return buffer.getvalue()

    kinds = {'JPEG quality 60': lambda image: image,
             'half the size': lambda image: image.resize((image.width // 2, image.height // 2)),
             'mirrored': ImageOps.mirror}
    rows = []
    for kind, how in kinds.items():
        leaks = find_leaks(fingerprint(tests, partial(change, how=how)), everything)
        right = sum(leak.test == leak.train for leak in leaks)
        rows.append([kind, right, len(tests) - right])
    alone = sum(len(find_leaks(one, rest)) for one, rest in _each_against_the_others(everything))
    rows.append(['different images, taken for copies', alone, len(names) - alone])
    return rows


def _each_against_the_others(prints: object, size: int = 200) -> list:
    """Chunks of images, each beside all images that come later."""
    return [(_part(prints, slice(i, i + size)), _part(prints, slice(i + size, None)))
            for i in range(0, len(prints.names), size)]


def _part(prints: object, rows: slice) -> object:
    return type(prints)(*(column[rows] for column in prints))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('checkpoint')
    parser.add_argument('--data', required=True, help='class folders')
    parser.add_argument('--replicas', type=int, default=40)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # initialisation, parameter by parameter
    data = find_labelled(args.data)
    print(markdown_table(['copies of test images', 'found', 'not found'], count_copies(data)), end='\n\n', flush=True)
    print(markdown_table(['truth', 'classifier', 'no difference', 'A better', 'A worse'],
                         count_verdicts(data, args.checkpoint, args.replicas)))
    print(f'\n{environment()}')


if __name__ == '__main__':
    main()
