"""Classifiers of small pixels, without an encoder: where they are enough, nobody needs to fine-tune a ViT.

scikit-learn fits them; the same search over held-out training labels as for every other start.
"""

import sys
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mae_mm.datasets.decode import DecodeError, decode
from mae_mm.datasets.layouts import Sample, some
from mae_mm.datasets.limits import read_file
from mae_mm.datasets.transforms import LoadImage

SIDE = 32  # pixels to which images are reduced
MAX_IMAGES = 10_000  # of training: the cost of an SVM is quadratic
COMPONENTS = 128  # principal components: an SVM of 3,072 pixels takes minutes
STRENGTHS = (0.1, 1.0, 10.0)  # of C, three values, as for the learning rates


def read_pixels(root: str, samples: Sequence[Sample], reading: dict | None = None) -> np.ndarray:
    """(N, SIDE * SIDE * C) float32; zeros, with a warning, for files that cannot be read.

    Photographs are in [0, 1]; `reading` are options of `mae_mm.LoadImage` for other bands and types.
    """
    rows, unreadable = [], []
    for sample in samples:
        try:
            rows.append(_reduced(f'{root}/{sample.name}', reading))
        except (OSError, DecodeError):
            rows.append(np.float32(0))
            unreadable.append(sample.name)
    shape = next((row.shape for row in rows if row.ndim), (SIDE, SIDE, 3))
    pixels = np.stack([np.broadcast_to(row, shape) for row in rows])
    if unreadable:
        print(f'warning: files of {root} that cannot be read are black for the classifiers of pixels '
              f'({len(unreadable)} of {len(samples)}): {some(unreadable)}', file=sys.stderr)
    return pixels.reshape(len(samples), -1)


def _reduced(path: str, reading: dict | None) -> np.ndarray:
    """An image as (SIDE, SIDE, C) float32."""
    if reading:
        img = torch.from_numpy(LoadImage(**reading).load(dict(img_path=path)).astype(np.float32))
        return F.adaptive_avg_pool2d(img.nan_to_num(0).permute(2, 0, 1), SIDE).permute(1, 2, 0).numpy()
    photo = Image.fromarray(decode(read_file(path)).permute(1, 2, 0).numpy())
    return np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255


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
