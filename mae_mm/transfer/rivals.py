"""Classifiers of small pixels, without an encoder: where they are enough, nobody needs to fine-tune a ViT.

scikit-learn fits them; the same search over held-out training labels as for every other start.
"""

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.layouts import Sample, some
from mae_mm.datasets.limits import read_file

SIDE = 32  # pixels to which images are reduced
MAX_IMAGES = 10_000  # of training: the cost of an SVM is quadratic
COMPONENTS = 128  # principal components: an SVM of 3,072 pixels takes minutes
STRENGTHS = (0.1, 1.0, 10.0)  # of C, three values, as for the learning rates


def read_pixels(root: str, samples: Sequence[Sample]) -> np.ndarray:
    """(N, SIDE * SIDE * 3) float32 in [0, 1]; zeros, with a warning, for files that cannot be read."""
    pixels, unreadable = np.zeros((len(samples), SIDE, SIDE, 3), np.float32), []
    for row, sample in zip(pixels, samples, strict=True):
        try:
            img = decode(read_file(f'{root}/{sample.name}'))
        except (OSError, DecodeError):
            unreadable.append(sample.name)
            continue
        small = Image.fromarray(img.permute(1, 2, 0).numpy()).resize((SIDE, SIDE), Image.Resampling.BOX)
        row[:] = np.asarray(small, np.float32) / 255
    if unreadable:
        print(f'warning: files of {root} that cannot be read are black for the classifiers of pixels '
              f'({len(unreadable)} of {len(samples)}): {some(unreadable)}', file=sys.stderr)
    return pixels.reshape(len(samples), -1)


def rival_hits(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, seed: int = 0,
) -> dict[str, np.ndarray]:
    """Which test images each rival classifies right.

    Args:
        train, test: (M, P) and (T, P) pixels.
        labels, truth: (M,) and (T,) class numbers.

    Returns:
        (T,) 0 or 1, by the name of the rival.

    Raises:
        ValueError: if scikit-learn is not installed.
    """
    try:
        from sklearn.decomposition import PCA
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV, StratifiedKFold
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC
    except ImportError as error:
        raise ValueError('the comparison with classifiers of pixels needs scikit-learn: pip install scikit-learn'
                         ) from error
    rng = np.random.default_rng(seed)
    if len(train) > MAX_IMAGES:
        kept = rng.permutation(len(train))[:MAX_IMAGES]
        train, labels = train[kept], labels[kept]
    folds = min(3, np.bincount(labels)[np.unique(labels)].min())
    components = max(1, min(COMPONENTS, train.shape[1], len(train) * 2 // 3 - 1))  # two of three folds are enough
    hits = {}
    models = {'logistic regression on pixels': LogisticRegression(max_iter=300), 'SVM on pixels': SVC()}
    for name, model in models.items():
        pca = PCA(components, svd_solver='randomized', random_state=0)
        pipeline = make_pipeline(StandardScaler(), pca, model)
        if folds >= 2:
            grid = {f'{type(model).__name__.lower()}__C': STRENGTHS}
            pipeline = GridSearchCV(pipeline, grid, cv=StratifiedKFold(folds, shuffle=True, random_state=seed))
        hits[name] = (pipeline.fit(train, labels).predict(test) == truth).astype(np.float64)
    return hits
