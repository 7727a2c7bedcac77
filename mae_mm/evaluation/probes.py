"""Classifiers of frozen features. Each searches one setting on held-out training labels, then uses all of them."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_mm.evaluation.features import Features
from mae_mm.evaluation.knn import nearest, vote
from mae_mm.models.necks import AttentivePool

TEMPERATURE = 0.07  # of the vote of neighbours
EPOCHS, MIN_STEPS, BATCH = 10, 400, 128  # of attentive probing
QUERIES = 32


class Split(NamedTuple):
    """Rows of the features."""

    fit: np.ndarray  # training images of the search
    held_out: np.ndarray  # those on which the search chooses
    train: np.ndarray  # both
    test: np.ndarray


class Probe(NamedTuple):
    """A kind of classifier."""

    title: str
    setting: str  # what is searched
    choices: tuple[float, ...]
    # (features, training rows, their labels, rows to classify, choices, seed, device) -> labels by choice
    predict: Callable[..., dict[float, np.ndarray]]


def run_probe(
    name: str, features: Features, labels: np.ndarray, split: Split, seed: int = 0, device: str = 'cpu',
) -> tuple[np.ndarray, float]:
    """Classify the test images; returns (T,) classes and the setting that was chosen.

    Args:
        name: of `PROBES`.
        labels: (N,) int64 classes, of which only those of `split.train` are read.
    """
    probe = PROBES[name]
    found = probe.predict(
        features, split.fit, labels[split.fit], split.held_out, probe.choices, seed, device)
    best = max(found, key=lambda choice: (found[choice] == labels[split.held_out]).mean())
    return probe.predict(
        features, split.train, labels[split.train], split.test, (best, ), seed, device)[best], best


def _neighbours(
    features: Features, train: np.ndarray, labels: np.ndarray, rows: np.ndarray, choices: Sequence[int], seed: int,
    device: str,
) -> dict[int, np.ndarray]:
    """The vote of the k nearest training images, by their mean tokens."""
    means = [torch.from_numpy(features.means[part, -1]).to(device) for part in (train, rows)]
    similarities, neighbours = nearest(*means, min(max(choices), len(train)))
    labels = torch.from_numpy(labels).to(device)
    return {k: vote(similarities[:, :k], labels[neighbours[:, :k]], TEMPERATURE, int(labels.max()) + 1).cpu().numpy()
            for k in choices}


def _linear(
    select: Callable[[Features, np.ndarray], np.ndarray], features: Features, train: np.ndarray, labels: np.ndarray,
    rows: np.ndarray, choices: Sequence[float], seed: int, device: str,
) -> dict[float, np.ndarray]:
    """Logistic regression on standardised features, which is what a BatchNorm without affine gives in MAE's probe.

    scikit-learn's solver converges to the one optimum without a learning rate, and starts from that of the last C.
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler
    except ImportError as error:
        raise ValueError('linear probes need scikit-learn: pip install scikit-learn; or choose others, '
                         '--probes knn attentive attentive_multi') from error
    scaler, model = StandardScaler(), LogisticRegression(max_iter=300, warm_start=True)
    x, found = scaler.fit_transform(select(features, train).astype(np.float32)), {}
    query = scaler.transform(select(features, rows).astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # 300 iterations are as good as the optimum
        for strength in choices:
            found[strength] = model.set_params(C=strength).fit(x, labels).predict(query)
    return found


def _attentive(
    queries: int, features: Features, train: np.ndarray, labels: np.ndarray, rows: np.ndarray,
    choices: Sequence[float], seed: int, device: str,
) -> dict[float, np.ndarray]:
    """`AttentivePool` and a linear layer, trained with each learning rate on the same batches, which are read once."""
    width, classes = features.patches.shape[-1], int(labels.max()) + 1
    with torch.random.fork_rng(devices=[]):
        heads = []
        for _ in choices:
            torch.manual_seed(seed)
            heads.append(_Head(width, math.gcd(queries, width), classes).to(device))
    batch = min(BATCH, len(train))
    steps = max(MIN_STEPS, EPOCHS * len(train) // batch)
    optimizer = torch.optim.AdamW(
        [dict(params=head.parameters(), lr=rate) for head, rate in zip(heads, choices, strict=True)], weight_decay=0,
        fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, list(choices), steps, pct_start=0.1)
    rng, order = np.random.default_rng(seed), np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(len(train))])
        chosen, order = np.sort(order[:batch]), order[batch:]  # sorted: one pass over the disk
        patches, target = _patches(features, train[chosen], device), torch.from_numpy(labels[chosen]).to(device)
        optimizer.zero_grad()
        sum(F.cross_entropy(head(patches), target) for head in heads).backward()  # no parameter is shared
        optimizer.step()
        schedule.step()
    found = [[] for _ in heads]
    with torch.no_grad():
        for start in range(0, len(rows), BATCH):
            patches = _patches(features, rows[start:start + BATCH], device)
            for head, parts in zip(heads, found, strict=True):
                parts.append(head.eval()(patches).argmax(1).cpu().numpy())
    return {rate: np.concatenate(parts) for rate, parts in zip(choices, found, strict=True)}


class _Head(nn.Module):

    def __init__(self, width: int, queries: int, classes: int) -> None:
        super().__init__()
        self.pool, self.fc = AttentivePool(width, queries), nn.Linear(width, classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, L, D) -> (N, classes)."""
        return self.fc(self.pool.pool(patches))


def _patches(features: Features, rows: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(features.patches[rows]).to(device).float()


STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn, ascending: the next starts from the last
RATES = (3e-3, 1e-2, 3e-2)
PROBES = dict(
    knn=Probe('k-NN, mean token', 'neighbours', (5, 10, 20, 50), _neighbours),
    linear_class=Probe('linear, class token', 'C', STRENGTHS, partial(_linear, Features.class_token)),
    linear_mean=Probe('linear, mean token', 'C', STRENGTHS, partial(_linear, lambda part, rows: part.means[rows, -1])),
    linear_blocks=Probe('linear, mean tokens of the last four blocks', 'C', STRENGTHS, partial(
        _linear, lambda part, rows: part.means[rows].reshape(len(rows), -1))),
    attentive=Probe('attentive, one query', 'lr', RATES, partial(_attentive, 1)),
    attentive_multi=Probe('attentive, 32 queries', 'lr', RATES, partial(_attentive, QUERIES)))
