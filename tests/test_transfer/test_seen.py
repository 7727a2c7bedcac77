"""Test images that were seen before are found, named and left out."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_mm.datasets.labelled import Labelled, find_labelled
from mae_mm.datasets.leaks import FILE, fingerprint
from mae_mm.transfer.seen import TRAINING, describe, draw_pairs, find_seen, leave_out


def draw(path: Path, seed: int, mirror: bool = False) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((70, 50), Image.BICUBIC)
    path.parent.mkdir(parents=True, exist_ok=True)
    (picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirror else picture).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Labelled:
    for number in range(24):
        draw(tmp_path / f'data/{"train" if number < 12 else "test"}/{"ab"[number % 2]}/{number}.png', number)
    return find_labelled(str(tmp_path / 'data'))


def test_copies_in_pre_training_are_named_and_left_out(data: Labelled, tmp_path: Path) -> None:
    draw(tmp_path / 'photos/x.jpg', 13, mirror=True)
    draw(tmp_path / 'photos/y.jpg', 50)
    fingerprint([f'{tmp_path}/photos/{name}.jpg' for name in 'xy']).save(tmp_path / FILE)
    seen = find_seen(data, [str(tmp_path / 'run.pth'), 'elsewhere/other.pth'])
    source = f'the pre-training of {tmp_path}/run.pth'
    assert list(seen.leaks) == [TRAINING, source] and seen.leaks[TRAINING] == []
    assert [(leak.test, leak.train, leak.how) for leak in seen.leaks[source]] == [
        (f'{data.root}/test/b/13.png', f'{tmp_path}/photos/x.jpg', 'mirrored')]
    copies, none, unknown = describe(seen, left_out=False)
    assert source in copies and 'x.jpg' in copies and '--exclude-leaks' in copies
    assert TRAINING in none and 'elsewhere/other.pth' in unknown
    rest = leave_out(data, seen)
    assert len(rest.test) == 11 and 'test/b/13.png' not in {sample.name for sample in rest.test}
    assert rest.train == data.train
    picture, = draw_pairs(seen, tmp_path / 'pairs')
    left, right = (np.asarray(Image.open(picture), np.float32)[:, part] for part in (slice(160), slice(164, 324)))
    assert abs(left - right[:, ::-1]).mean() < 8 < abs(left - right).mean()


def test_what_could_not_be_compared_is_said(data: Labelled, tmp_path: Path) -> None:
    fingerprint([]).save(tmp_path / FILE)
    Path(data.root, data.test[0].name).write_bytes(b'no image')
    seen = find_seen(data, [str(tmp_path / 'run.pth')])
    assert list(seen.leaks) == [TRAINING]
    assert seen.unknown == ['1 test images (they cannot be read)',
                            f'the pre-training of {tmp_path}/run.pth ({FILE} beside it has no images)']


def test_a_test_part_that_repeats_the_training_part_is_refused(data: Labelled) -> None:
    with pytest.raises(ValueError, match='12 of 12 test images are copies of training images'):
        find_seen(data._replace(test=data.train), [])


def test_too_few_are_left(data: Labelled, tmp_path: Path) -> None:
    fingerprint([f'{data.root}/{sample.name}' for sample in data.test[:3]]).save(tmp_path / FILE)
    with pytest.raises(ValueError, match='--exclude-leaks leaves 9 of 12'):
        leave_out(data, find_seen(data, [str(tmp_path / 'run.pth')]))
