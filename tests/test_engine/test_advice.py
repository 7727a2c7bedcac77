"""Advice before a pre-training on few images, and after one that has not learned enough."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.images import photo
from helpers.tools import DEMO, run_tool, tiny
from mmengine.runner import EpochBasedTrainLoop
from PIL import Image

from mae_mm.datasets.image_folder import ImageFolder
from mae_mm.engine.advice import advise, good_lr, what_to_try


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 images of 30x40 pixels, the last one not an image."""
    folder = tmp_path_factory.mktemp('photos')
    for i in range(69):
        Image.fromarray(photo(30, 40, seed=i)).save(folder / f'{i:02}.png')
    (folder / 'x.png').write_text('not an image')
    return folder


def a_run(
    dataset: object, batch: int = 32, epochs: int = 200, lr: float = 1e-3, started: bool = False,
) -> SimpleNamespace:
    """What `advise` reads of a runner."""

    class Loader(SimpleNamespace):
        def __len__(self) -> int:
            return len(self.dataset) // batch

    model = SimpleNamespace(init_cfg=dict(type='X') if started else None)
    model.backbone = SimpleNamespace(init_cfg=None, patch_size=16)
    return SimpleNamespace(
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop), model=model,
        max_epochs=epochs, max_iters=epochs * (len(dataset) // batch),
        train_dataloader=Loader(dataset=dataset, batch_sampler=SimpleNamespace(batch_size=batch)),
        optim_wrapper=SimpleNamespace(optimizer=SimpleNamespace(param_groups=[dict(lr=0, initial_lr=lr), dict(lr=0)])))


@pytest.mark.parametrize(('run', 'said'), [
    (dict(), []),
    (dict(batch=64), ['batches of 64 leave 7 steps for each epoch of 500 images: train_dataloader.batch_size=16',
                      '200 epochs are only 1,400 steps of 64: train_cfg.max_epochs=128 with batches of 16']),
    (dict(epochs=100), ['only 1,500 steps of 32: train_cfg.max_epochs=256']),
    (dict(lr=1.9e-5), ['lr 1.9e-05 is low for batches of 32: optim_wrapper.optimizer.lr=0.0002 auto_scale']),
    (dict(lr=1.9e-5, epochs=20, started=True), []),
])
def test_advice(run: dict, said: list[str]) -> None:
    lines = [*advise(a_run(range(500), **run))]
    assert len(lines) == len(said)
    for line, part in zip(lines, said, strict=True):
        assert part in line


@pytest.mark.parametrize(('size', 'said'), [(16, None), (48, '=28 model.backbone.patch_size=4')])
def test_images_smaller_than_the_crops(photos: Path, size: int, said: str | None) -> None:
    dataset = ImageFolder(photos, [dict(type='mae_mm.LoadRandomResizedCrop', size=size)])
    lines = [*advise(a_run(dataset, batch=2))]
    assert (said is None and not lines) or (f'{size}x{size} pixels (30 in the median)' in lines[0] and said in lines[0])


def test_lr_of_a_batch() -> None:
    assert [good_lr(batch) for batch in (4096, 1024, 64)] == [2e-3, 1e-3, 3e-4]
    for lr, other in ((3.75e-5, 3e-4), (3e-4, 9e-4), (1e-3, 3e-3), (1e-2, 3e-4)):
        lines = what_to_try(lr, 64, a_run(range(500)))
        assert f'lr {lr:.3g} in 3,000 batches of 64' in lines[0]
        assert 'train_cfg.max_epochs=400' in lines[1] and f'optim_wrapper.optimizer.lr={other:g} ' in lines[2]


def test_said_once_and_what_to_try_at_the_end(photos: Path, tmp_path: Path) -> None:
    options = [one for one in tiny(photos) if 'data_root' not in one]
    for epochs, *more in ((1, ), (2, '--resume')):
        run_tool('train', DEMO, '--data', photos, '--work-dir', tmp_path, *more, *options,
                 'optim_wrapper.optimizer.lr=1e-5', f'train_cfg.max_epochs={epochs}', 'param_scheduler=[]')
    first, second = (path.read_text() for path in sorted(tmp_path.glob('*/*.log')))
    assert first.count('advice: ') == 4 and 'lr 1e-05 is low for batches of 12' in first
    assert 'advice: ' not in second
    for log in (first, second):
        assert 'It used lr 1e-05 in ' in log and 'optim_wrapper.optimizer.lr=0.0001 ' in log
    assert 'in 6 batches of 12' in second and 'train_cfg.max_epochs=1334' in second
    images = [word for word in second.split() if word.startswith(str(photos))]
    assert {Path(word).name for word in images} >= set((tmp_path / 'held_out.txt').read_text().split()[:4])
