"""Probes: signals that only some of them can find, settings chosen on training labels alone."""

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from mae_mm.evaluation import probes
from mae_mm.evaluation.features import Features
from mae_mm.evaluation.knn import Features as Pooled
from mae_mm.evaluation.knn import knn_accuracy
from mae_mm.evaluation.probes import PROBES, Probe, Split, run_probe


def split_of(fit: int, held_out: int, test: int) -> Split:
    rows = np.arange(fit + held_out + test)
    return Split(rows[:fit], rows[fit:fit + held_out], rows[:fit + held_out], rows[fit + held_out:])


SPLIT = split_of(180, 60, 200)


def noisy(patches: np.ndarray) -> Features:
    means = patches.mean(1)[:, None].repeat(4, 1)
    return Features(means.astype(np.float16), means[:, 0].astype(np.float16), patches.astype(np.float16), {})


@pytest.fixture(scope='module')
def hidden() -> tuple[Features, np.ndarray]:
    """The patterns of all four classes are in every image, each in one patch; a mark is on that of the label."""
    rng, count = np.random.default_rng(0), 440
    labels, patches = rng.integers(4, size=count), rng.normal(0, 0.2, (count, 9, 32))
    for image, label in zip(patches, labels, strict=True):
        places = rng.permutation(9)[:4]
        image[places, np.arange(4)] += 3
        image[places[label], 31] += 3
    return noisy(patches), labels


@pytest.mark.parametrize('name', PROBES)
def test_only_attention_finds_a_signal_of_single_patches(hidden: tuple, name: str, monkeypatch) -> None:
    features, labels = hidden
    if name == 'attentive_multi':  # fewer steps are enough
        monkeypatch.setattr(probes, 'MIN_STEPS', 100)
    pred, _ = run_probe(name, features, labels, SPLIT)
    accuracy = (pred == labels[SPLIT.test]).mean()
    assert accuracy > 0.85 if name.startswith('attentive') else accuracy < 0.4


@pytest.mark.parametrize('name', PROBES)
def test_all_find_a_signal_of_the_whole_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, 'MIN_STEPS', 40)
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=440)
    features = noisy(rng.normal(0, 1, (440, 4, 32)) + 3 * np.eye(32)[labels][:, None])
    pred, _ = run_probe(name, features, labels, SPLIT)
    assert (pred == labels[SPLIT.test]).mean() > 0.9


@pytest.mark.parametrize('name', ['knn', 'linear_mean', 'attentive'])
def test_labels_of_test_images_are_never_read(hidden: tuple, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = hidden
    monkeypatch.setattr(probes, 'MIN_STEPS', 40)
    blind = labels.copy()
    blind[SPLIT.test] = -1
    expected, choice = run_probe(name, features, labels, SPLIT)
    pred, blind_choice = run_probe(name, features, blind, SPLIT)
    assert pred.tolist() == expected.tolist() and choice == blind_choice


def test_the_search_holds_out_training_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three choices 'b' is right on the held-out images; the test images see only it, and all training images."""
    labels, calls = np.array([0, 1, 0, 1, 1, 0, 0, 0]), []

    def predict(features, train, seen, rows, choices, seed, device) -> dict:
        calls.append((train.tolist(), seen.tolist(), rows.tolist(), tuple(choices)))
        return {choice: np.full(len(rows), choice == 'b', int) for choice in choices}

    monkeypatch.setitem(PROBES, 'fake', Probe('', '', ('a', 'b', 'c'), predict))
    pred, choice = run_probe('fake', None, labels, split_of(3, 2, 3))
    assert choice == 'b' and pred.tolist() == [1, 1, 1]
    assert calls == [([0, 1, 2], [0, 1, 0], [3, 4], ('a', 'b', 'c')),
                     ([0, 1, 2, 3, 4], [0, 1, 0, 1, 1], [5, 6, 7], ('b', ))]


def test_learning_rates_that_are_trained_together_do_not_touch(
    hidden: tuple, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of labels that cannot be learned, so that no two heads agree by being right."""
    features, labels = hidden
    monkeypatch.setattr(probes, 'MIN_STEPS', 40)
    labels = np.random.default_rng(1).permutation(labels)
    one = partial(probes._attentive, 8, features, SPLIT.fit, labels[SPLIT.fit], SPLIT.test)
    together, alone = one((1e-3, 3e-3), 0, 'cpu'), one((3e-3, ), 0, 'cpu')
    assert together[3e-3].tolist() == alone[3e-3].tolist() != together[1e-3].tolist()
    assert one((3e-3, ), 1, 'cpu')[3e-3].tolist() != alone[3e-3].tolist()  # another seed


def test_strengths_after_one_another_reach_the_optimum(hidden: tuple) -> None:
    features, labels = hidden
    x = features.means[SPLIT.fit, -1].astype(np.float64)
    x, query = ((part - x.mean(0)) / x.std(0) for part in (x, features.means[SPLIT.test, -1].astype(np.float64)))
    found = PROBES['linear_mean'].predict(
        features, SPLIT.fit, labels[SPLIT.fit], SPLIT.test, probes.STRENGTHS, 0, 'cpu')
    for strength, pred in found.items():
        alone = LogisticRegression(C=strength, max_iter=1000).fit(x, labels[SPLIT.fit]).predict(query)
        assert (pred == alone).mean() > 0.98


def test_neighbours_vote_as_elsewhere(hidden: tuple) -> None:
    features, labels = hidden
    sides = [torch.from_numpy(features.means[rows, -1]).float() for rows in (SPLIT.train, SPLIT.test)]
    of_sides = [torch.from_numpy(labels[rows]) for rows in (SPLIT.train, SPLIT.test)]
    expected = knn_accuracy(*(Pooled(x, x, y) for x, y in zip(sides, of_sides, strict=True)), ks=(5, 50))
    found = PROBES['knn'].predict(features, SPLIT.train, labels[SPLIT.train], SPLIT.test, (5, 50, 1000), 0, 'cpu')
    for k in (5, 50):
        assert 100 * (found[k] == labels[SPLIT.test]).mean() == pytest.approx(expected[f'mean_patch/k{k}'])


def test_no_class_token_says_what_to_do(hidden: tuple) -> None:
    features, labels = hidden
    with pytest.raises(ValueError, match='--probes knn linear_mean'):
        run_probe('linear_class', features._replace(classes=np.empty((440, 0))), labels, SPLIT)
