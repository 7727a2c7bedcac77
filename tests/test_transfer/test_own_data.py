"""Comparisons on data of one's own: equal runs for every start, in this process and at tiny scale."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.images import class_folders
from helpers.jobs import make_in_this_process
from helpers.pixels import write_geotiff
from mmengine.config import Config
from PIL import Image

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.datasets.labelled import find_labelled, subset
from mae_mm.engine import runner as launch
from mae_mm.transfer import jobs, own_data
from mae_mm.transfer.own_data import Length, compare_starts, make_own_run
from mae_mm.transfer.own_recipes import TASKS, own_config, use_images
from mae_mm.transfer.own_report import write_verdict
from mae_mm.transfer.per_image import load_score
from mae_mm.transfer.probing import probe_checkpoints
from mae_mm.transfer.runs import place
from mae_mm.transfer.types import Job, name_starts


def save_image(path: Path, seed: int, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 100, (32, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels + np.uint8(shade)).save(path)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    return class_folders(tmp_path / 'data')


@pytest.fixture
def checkpoint(tmp_path: Path, make_mae: Callable) -> str:
    mae = make_mae(dict(arch=dict(embed_dim=32, depth=4, num_heads=2)))
    content = dict(state_dict=mae.state_dict(), meta=dict(mae_mm=dict(num_heads=2)))
    torch.save(content, tmp_path / 'mine.pth')
    return str(tmp_path / 'mine.pth')


def test_subsets_are_nested_and_of_every_class(classes: Path) -> None:
    data = find_labelled(str(classes))
    small, large, other = subset(data, 0.1, 0), subset(data, 0.5, 0), subset(data, 0.1, 1)
    assert set(small) < set(large) < set(data.train) and small != other
    assert [sum(sample.label == label for sample in small) for label in (0, 1)] == [2, 2]
    boxes = data._replace(task='detection', train=[one._replace(label=i) for i, one in enumerate(data.train)])
    assert len(subset(boxes, 0.1, 0)) == 4  # not one of each image's number


def test_starts_have_names_of_their_own() -> None:
    assert list(name_starts(['a/one.pth', 'b/one.pth', 'two.pth'])) == ['random', 'a_one', 'b_one', 'two']
    with pytest.raises(ValueError, match=r'x/a\.pth'):
        name_starts(['x/a.pth', 'x/a.pth'])


@pytest.mark.parametrize('given', [4, 0.1])
def test_minutes_are_shared_by_runs_that_start_and_evaluate(
    given: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two at a time, as the runs: 10 s each, of which 20 steps of 0.2 s; validation logs another `time`."""
    def complete(jobs: dict, make: Callable, workers: int) -> tuple[dict, dict]:
        assert len(jobs) == workers == 2
        for job in jobs.values():
            log = job.folder / 'date/vis_data/scalars.json'
            log.parent.mkdir(parents=True)
            log.write_text('{"loss": 1, "time": 0.9}\n{"loss": 1, "time": 0.2}\n{"accuracy/top1": 9, "time": 0.01}\n')
        return {run: dict(seconds=10) for run in jobs}, {}

    def job(run: own_data.OwnRun, train: list, test: list, iters: int) -> Job:
        cfg = Config(dict(work_dir=str(tmp_path / run.name), default_hooks=dict(logger=dict(interval=50))))
        return Job(run.name, cfg, {})

    monkeypatch.setattr(own_data, 'complete', complete)
    maker = SimpleNamespace(
        data=SimpleNamespace(task='classification', test=['c']), starts=dict(random=None, mine='mine.pth'), job=job)
    steps, minutes = own_data._length(Length(minutes=given), 30, 6, 2, maker, (['a'], ['b']))
    assert steps == max(32, round((given * 60 * 2 / 6 - 6) / 0.2))
    assert minutes == pytest.approx(max(given, 6 * (6 + 32 * 0.2) / 2 / 60))


def test_encoders_of_different_sizes_are_told() -> None:
    small, wide = (Checkpoint({'patch_embed.proj.weight': torch.zeros(width, 3, 8, 8),
                               'blocks.3.norm1.weight': torch.ones(width)}) for width in (32, 64))
    assert own_data._about_sizes(dict(mine=small, again=small, random=small)) == []
    line, = own_data._about_sizes(dict(mine=small, other=wide, random=small))
    assert 'mine: 32 wide, 4 deep' in line and 'other: 64 wide' in line


@pytest.mark.integration
def test_from_class_folders_to_a_verdict(
    classes: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, made, lines = find_labelled(str(classes)), [], []
    monkeypatch.setattr(jobs, 'make_jobs', make_in_this_process(made))

    def compare() -> dict:
        return compare_starts(data, [checkpoint], tmp_path / 'out', (0.2, 1), 2, Length(epochs=20), say=lines.append)

    summary = compare()
    assert lines[0].startswith('plan       14 runs of 32 steps')
    assert [run.partition('_')[0] for run in made] == 6 * ['search'] + 8 * ['test']
    sizes = [json.loads((tmp_path / f'out/runs/{run}/result.json').read_text())['train_images'] for run in made]
    assert sizes == 6 * [24] + 4 * [8, 32]  # a quarter of the labels is held out for the search
    assert list(summary['curves']) == ['random', 'mine', 'logistic regression on pixels', 'SVM on pixels']
    assert summary['curves']['SVM on pixels']['values'] == [100, 100] and not summary['failed']
    assert any('no ViT is needed' in line for line in summary['verdict'])
    for start in ('random', 'mine'):  # what was kept for each image is what the evaluator reported
        folder = tmp_path / f'out/runs/test_{start}_32labels_seed1'
        reported = json.loads((folder / 'result.json').read_text())['metrics']['accuracy/top1']
        assert load_score(folder / 'per_image.npz')(np.full((1, 8), 1 / 8))[0] == pytest.approx(reported)
    assert (tmp_path / 'out/runs/test_mine_32labels_seed0/final.pth').exists()
    assert len(summary['pictures']['mine']) == 6
    assert compare() == summary and len(made) == 14  # complete runs are not repeated
    alone = Config.fromfile(tmp_path / 'out/runs/test_mine_8labels_seed0/classification.py')  # as tools/train.py does
    alone.work_dir = str(tmp_path / 'alone')
    launch.check_batches(launch.build_runner(alone))  # 8 images fill a batch of 32

    probes = probe_checkpoints(data, [checkpoint], tmp_path / 'features', ['knn'], 2, (0.2, 1), say=lines.append)
    write_verdict(tmp_path / 'out', summary, ['3 test images have copies.'], probes=probes)
    page = (tmp_path / 'out/report.html').read_text()
    assert summary['verdict'][0] in page and '3 test images have copies.' in page
    assert json.loads((tmp_path / 'out/verdict.json').read_text())['pairs'][0]['first'] == 'random'
    assert summary['verdict'][0] in (tmp_path / 'out/verdict.md').read_text()
    assert page.count('<td>k-NN') == 2 and 'k-NN' in (tmp_path / 'out/verdict.md').read_text()  # 8 and 32 labels
    write_verdict(tmp_path / 'out', summary)
    assert 'k-NN' not in (tmp_path / 'out/report.html').read_text()


def boxes_with_odd_ids(root: Path, save: Callable = save_image, suffix: str = 'png') -> None:
    for number in range(10):
        save(root / f'images/{number}.{suffix}', number)
    images = [dict(id=1000 * number + 7, file_name=f'{number}.{suffix}', width=40, height=32) for number in range(10)]
    annotations = [dict(id=image['id'], image_id=image['id'], category_id=9 if number % 2 else 4, iscrowd=0, area=144,
                        bbox=[4, 4, 12, 12]) for number, image in enumerate(images)]
    (root / 'labels.json').write_text(json.dumps(dict(
        images=images, annotations=annotations, categories=[dict(id=9, name='cup'), dict(id=4, name='ant')])))


def label_maps(root: Path, save: Callable = save_image, suffix: str = 'jpg') -> None:
    for number in range(10):
        save(root / f'images/a b {number}.{suffix}', number)
        values = np.zeros((32, 40), np.uint8)
        values[:, 20:], values[:4] = 1, 255
        (root / 'masks').mkdir(exist_ok=True)
        Image.fromarray(values).save(root / f'masks/a b {number}.png')


@pytest.mark.integration
@pytest.mark.parametrize(('make', 'task'), [(boxes_with_odd_ids, 'detection'), (label_maps, 'segmentation')])
def test_other_tasks(make: Callable, task: str, checkpoint: str, tmp_path: Path) -> None:
    """One run of each, from data on disk to the contributions of the test images and pictures."""
    (tmp_path / 'data').mkdir()
    make(tmp_path / 'data')
    data = find_labelled(str(tmp_path / 'data'))
    assert (data.task, len(data.train), len(data.test)) == (task, 8, 2)
    encoder = read_checkpoint(checkpoint)
    encoder.settings.update(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0])  # of a pre-training with --own-statistics
    cfg = place(own_config(data, encoder, 3, 1.0), tmp_path / 'run', 0)
    assert (cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std) == ([1, 2, 3], [4, 5, 6])
    use_images(cfg, data, data.train, data.test)
    key, metric = TASKS[task].key, TASKS[task].metric
    result = make_own_run(Job('run', cfg, {key: metric}, checkpoint, task, draw=True), print)
    assert (result['train_images'], result['val_images']) == (8, 2)
    score = load_score(tmp_path / 'run/per_image.npz')(np.full((1, 2), 0.5))[0]
    assert score == pytest.approx(result['metrics'][key], abs=0.051)
    assert len(list((tmp_path / 'run/pictures').glob('*.png'))) == 6
    cfg.merge_from_dict({'train_dataloader.batch_size': 9, 'work_dir': str(tmp_path / 'alone')})
    launch.check_batches(launch.build_runner(cfg))  # nor are 8 images too few for a batch


def save_bands(path: Path, seed: int) -> None:
    """Six bands of 16 bits, some pixels without data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    img = np.random.default_rng(seed).integers(1000, 3000, (32, 40, 6)).astype(np.uint16)
    img[:5, :7] = 0
    write_geotiff(path, img, nodata=0)


def folders_of_bands(root: Path, save: Callable, suffix: str) -> None:
    for number in range(10):
        save(root / 'ab'[number % 2] / f'{number}.{suffix}', number)


@pytest.mark.integration
@pytest.mark.parametrize(('make', 'task'), [
    (folders_of_bands, 'classification'), (boxes_with_odd_ids, 'detection'), (label_maps, 'segmentation')])
def test_images_are_read_as_the_pre_training_read_them(
    make: Callable, task: str, make_mae: Callable, tmp_path: Path,
) -> None:
    mae = make_mae(dict(arch=dict(embed_dim=32, depth=4, num_heads=2), in_chans=6))
    torch.save(dict(state_dict=mae.state_dict(), meta=dict(mae_mm=dict(num_heads=2))), tmp_path / 'six.pth')
    (tmp_path / 'data').mkdir()
    make(tmp_path / 'data', save_bands, 'tif')
    data = find_labelled(str(tmp_path / 'data'))
    encoder = read_checkpoint(tmp_path / 'six.pth')
    encoder.settings.update(mean=[2000.0] * 6, std=[600.0] * 6, reading=dict(dtype='float32', bands=6))
    cfg = place(own_config(data, encoder, 3, 1.0), tmp_path / 'run', 0)
    use_images(cfg, data, data.train, data.test)
    key, metric = TASKS[task].key, TASKS[task].metric
    result = make_own_run(Job('run', cfg, {key: metric}, str(tmp_path / 'six.pth'), task, draw=True), print)
    assert (result['train_images'], result['val_images']) == (8, 2) and result['metrics'][key] >= 0
    assert len(list((tmp_path / 'run/pictures').glob('*.png'))) == 6
    runner = launch.build_runner(cfg)
    batch = runner.model.data_preprocessor(next(iter(runner.train_dataloader)), True)
    known = batch['inputs'][batch['inputs'] != 0]
    assert batch['inputs'].shape[1] == 6 and known.abs().max() < 3 and abs(known.mean()) < 0.2
