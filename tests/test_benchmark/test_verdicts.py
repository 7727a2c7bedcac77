"""Replicas of verdicts whose truth is known."""

from pathlib import Path

import numpy as np
from PIL import Image

from mae_mm.benchmark import verdicts
from mae_mm.datasets.labelled import find_labelled
from mae_mm.demo_data.elsewhere import SIDE, make_texture


def test_a_planted_gain_is_found_and_noise_is_not(monkeypatch) -> None:
    monkeypatch.setattr(verdicts, 'LABELS', (20, 60, 180))
    monkeypatch.setattr(verdicts, 'TEST', 200)
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=500)
    noise = rng.normal(size=(500, 16))
    better, worse = (noise + scale * np.eye(4, 16)[labels] for scale in (3, 1))
    for make in verdicts.CLASSIFIERS.values():
        found = [verdicts.verdict_of(better, worse, labels, make, np.random.default_rng(i)) for i in range(3)]
        assert min(found) > 5
        none = [verdicts.verdict_of(noise, noise[::-1], labels, make, np.random.default_rng(i)) for i in range(6)]
        assert np.count_nonzero(none) <= 1


def test_copies_are_counted(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / ('test' if number > 7 else 'train') / 'ab'[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((180, 120), Image.BICUBIC).save(folder / f'{number}.png')
    rows = verdicts.count_copies(find_labelled(str(tmp_path)))
    assert [row[1:] for row in rows] == 3 * [[4, 0]] + [[0, 12]]


def test_textures_differ_and_are_repeatable() -> None:
    first, again, other = (make_texture(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert (first == again).all() and (first != other).mean() > 0.9
