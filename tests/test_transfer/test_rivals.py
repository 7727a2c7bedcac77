from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_mm.datasets.layouts import Sample
from mae_mm.transfer.rivals import read_pixels, rival_hits


def test_unreadable_files_are_reported_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    Image.new('RGB', (8, 8), 'white').save(tmp_path / 'good.png')
    (tmp_path / 'bad.png').write_bytes(b'not an image')
    pixels = read_pixels(str(tmp_path), [Sample(name, 0) for name in ('good.png', 'bad.png', 'gone.png')])
    assert pixels.mean(1).tolist() == [1, 0, 0]
    err = capsys.readouterr().err
    assert '(2 of 3): bad.png, gone.png' in err and err.count('\n') == 1
    read_pixels(str(tmp_path), [Sample('good.png', 0)])
    assert not capsys.readouterr().err


def test_a_task_of_brightness_needs_no_encoder() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pixels = (0.3 + 0.4 * labels[:, None] + 0.1 * rng.normal(size=(60, 48))).astype(np.float32)
    hits = rival_hits(pixels[:30], labels[:30], pixels[30:], labels[30:])
    assert len(hits) == 2 and all(rival.shape == (30,) and rival.mean() > 0.95 for rival in hits.values())


def test_noise_is_no_better_than_chance() -> None:
    rng = np.random.default_rng(0)
    pixels, labels = rng.normal(size=(400, 8)).astype(np.float32), rng.integers(2, size=400)
    hits = rival_hits(pixels[:200], labels[:200], pixels[200:], labels[200:])
    assert all(0.35 < rival.mean() < 0.65 for rival in hits.values())


def test_one_label_of_a_class_is_enough_to_fit() -> None:
    pixels, labels = np.eye(3, 4, dtype=np.float32), np.arange(3)
    assert all(rival.mean() == 1 for rival in rival_hits(pixels, labels, pixels, labels).values())
