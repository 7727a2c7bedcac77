"""Data sets with files that cannot be read, under the loops and the hook."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import open_to_all
from helpers.reliability import ALONE, build, restore_signals, save_images, tiny_config, train
from torch.utils.data import DataLoader, Dataset

from mae_mm.datasets import DecodeError, ImageFolder
from mae_mm.engine.loops.batches import ReadableSamples, SeededSamples
from mae_mm.stopping import TrainingStopped


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp('images'))


def test_vanished_and_forbidden_files_are_replaced(images: Path, tmp_path: Path) -> None:
    for name in ('00.jpg', '01.jpg', '02.jpg'):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    dataset = ReadableSamples(ImageFolder(tmp_path, [dict(type='mae_mm.LoadRandomResizedCrop', size=8)]))
    (tmp_path / '00.jpg').unlink()
    (tmp_path / '01.jpg').chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # whom no permission stops
            open_to_all(tmp_path)
            os.seteuid(65534)
        assert {dataset[i]['img_path'] for i in range(3)} == {str(tmp_path / '02.jpg')}
    finally:
        os.seteuid(user)
    assert dataset.num_broken == 2


class Odd(Dataset):
    """Fails as hosts' pipelines do."""

    def __init__(self, *errors: Exception, good: int = 1) -> None:
        self.errors, self.good = errors, good

    def __len__(self) -> int:
        return len(self.errors) + self.good

    def __getitem__(self, i: int) -> int:
        if i < len(self.errors):
            raise self.errors[i]
        return i

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'{i}.jpg')


def test_a_hosts_data_set_is_spared_its_unreadable_files() -> None:
    samples = SeededSamples(Odd(OSError('gone'), AssertionError('failed to load image: a.jpg'), DecodeError('cut')))
    assert [samples[i, 7] for i in range(4)] == [3] * 4
    assert samples.num_broken == 3 and samples.broken_files() == ['0.jpg', '1.jpg', '2.jpg']
    with pytest.raises(AssertionError, match='a bug'):
        SeededSamples(Odd(AssertionError('a bug')))[0, 0]


def test_workers_count_together_and_warn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    samples, warnings = ReadableSamples(Odd(OSError('gone'), OSError('lost'), good=2)), []
    loader = DataLoader(samples, 1, num_workers=2, timeout=60)
    for _ in range(2):
        assert sorted(map(int, loader)) == [2, 2, 2, 3]
    assert samples.num_broken == 2 and samples.broken_files() == ['0.jpg', '1.jpg']
    monkeypatch.setattr('mae_mm.engine.loops.batches.print_log', lambda text, *_: warnings.append(text))
    other = ReadableSamples(samples.dataset)
    assert [other[0], other[0], other[1]] == [2, 2, 2]
    assert warnings == ['0.jpg: gone; replaced by another image', '1.jpg: lost; replaced by another image']


def test_the_replacement_depends_on_the_seed_alone() -> None:
    samples = SeededSamples(Odd(OSError('gone'), good=9))
    drawn = []
    for seed in (1, 1, 2, 3, 4):
        np.random.seed()
        drawn.append(samples[0, seed])
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_a_run_bears_a_share_and_lists_it(images: Path, tmp_path: Path) -> None:
    data = save_images(tmp_path / 'data')
    (data / '05.jpg').write_bytes(b'')
    runner = train(tiny_config(data, tmp_path / 'run', **ALONE, **{'train_cfg.max_epochs': 2, 'val_dataloader': None,
                                                                   'val_cfg': None, 'val_evaluator': None}))
    assert runner.epoch == 2
    assert (tmp_path / 'run' / 'bad_images.txt').read_text() == f'{data / "05.jpg"}\n'
    for name in ('06.jpg', '07.jpg'):
        (data / name).write_bytes(b'no image')
    runner = build(tiny_config(data, tmp_path / 'run', **ALONE))
    with pytest.raises(TrainingStopped, match=r'3 of 24 images could not be read.*1\.00%'):
        runner.train()
    restore_signals(runner)
    assert len((tmp_path / 'run' / 'bad_images.txt').read_text().splitlines()) == 3
