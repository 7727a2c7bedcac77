"""What `tools/benchmark.py` measures, at sizes that take a second."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import mae_mm
from mae_mm.benchmark import bands, busy, embed, end2end, loader, step, timing
from mae_mm.benchmark.images import draw_jpegs
from mae_mm.benchmark.timing import Rounds, interleave
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.registry import MODELS

pytestmark = pytest.mark.integration


def test_interleave_takes_turns_by_the_clock_given():
    calls, ticks = [], iter(range(100))
    contestants = {'a': lambda: calls.append('a'), 'b': lambda: (calls.append('b'), next(ticks), next(ticks))}
    times = interleave(contestants, rounds=3, warmup=1, clock=lambda: next(ticks))
    assert calls == ['a', 'b'] * 4
    assert (times['a'].median, times['b'].median) == (1, 3)


def test_rounds_end_with_the_minutes_and_the_plan_is_printed(monkeypatch, capsys):
    now = iter(range(0, 6000, 60))  # every look at the clock takes a minute
    monkeypatch.setattr(timing.time, 'monotonic', lambda: next(now))
    calls = []
    interleave({'a': lambda: calls.append('a'), 'b': lambda: calls.append('b')}, Rounds(9, minutes=6.5))
    assert calls == ['a', 'b'] * 3
    err = capsys.readouterr().err
    assert '2 contestants, 1 + 9 rounds\nabout 40.0 minutes' in err and '2 of 9 rounds in 5.0 minutes' in err
    interleave({'a': lambda: calls.append('c')}, Rounds(9, minutes=0))
    assert calls[6:] == ['c', 'c']  # a warm-up and a round in any case


def test_steps_beside_busy_processes(monkeypatch):
    """Without the setting torch is imported first; what the user has set reaches neither process."""
    started, asked = [], []

    @contextmanager
    def child(code, env):
        started.append(code)
        assert not set(env) & set(mae_mm.SPINNING)
        yield code
        started.remove(code)

    monkeypatch.setattr(busy, '_child', child)
    monkeypatch.setattr(busy, '_ask', lambda server: asked.append((server, started.count(busy.BUSY))))
    rows = busy.compare_busy(rounds=2, neighbours=(0, 2))
    assert [row['busy'] for row in rows] == [0, 2] and set(rows[0]['seconds']) == {'default', 'mae_mm'}
    default, ours = busy.CONTESTANTS.values()
    assert asked == [(code, number) for number in (0, 2) for _ in range(5) for code in (default, ours)]
    assert default.startswith('import torch; ') and ours.startswith('from mae_mm') and not started


@pytest.mark.parametrize(('arch', 'patch', 'gigaflops'), [('base', 16, 58.7), ('large', 16, 124.5)])
def test_flops_of_a_step(arch, patch, gigaflops):
    assert step.step_flops(arch, 224, patch) / 1e9 == pytest.approx(gigaflops, rel=0.002)


@pytest.mark.parametrize('decoder', step.DECODERS.values())
def test_flops_are_those_that_torch_counts(decoder):
    """torch counts every product of the forward pass; not fused attention on the CPU, hence bfloat16."""
    from torch.utils.flop_counter import FlopCounterMode

    model = step.build_ours('tiny', 64, 8, decoder)
    model.train()
    with FlopCounterMode(display=False) as counter, torch.autocast('cpu', torch.bfloat16):
        model.loss(torch.randn(1, 3, 64, 64))
    assert 3 * counter.get_total_flops() == pytest.approx(step.step_flops('tiny', 64, 8, decoder), rel=0.01)


def test_steps_of_both(monkeypatch):
    """Both models train, and each row says what it was."""
    tiny = dict(embed_dim=24, depth=1, num_heads=1)
    monkeypatch.setattr(step, 'ARCHS', dict(base=tiny))
    monkeypatch.setattr('mae_mm.models.archs.ARCHS', dict(base=tiny))
    monkeypatch.setattr(step, 'MMPRETRAIN_ARCHS', dict(base=dict(
        embed_dims=24, num_layers=1, num_heads=1, feedforward_channels=96)))
    monkeypatch.setattr(step, 'matmul', lambda device: (lambda: torch.ones(64, 64) @ torch.ones(64, 64), 2.0 * 64**3))
    rows = step.compare_steps('base', 32, 8, batch=2, rounds=2, decoders=list(step.DECODERS.values()))
    assert [(row['name'], row['dtype']) for row in rows] == [
        (name, dtype) for dtype in step.DTYPES for name in (*step.DECODERS.values(), 'mmpretrain')]
    for row in rows:
        assert row['images_per_second'] == pytest.approx(2 / row['seconds'].median)
    assert rows[3]['ratio'] == rows[3]['ratio_float32'] == rows[7]['ratio'] == 1


def test_images_that_cannot_be_loaded_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere: no such folder'):
        loader.compare_loading(images=2, rounds=1, data=str(tmp_path / 'nowhere'))
    with pytest.raises(FileNotFoundError, match='no image in it'):
        loader.compare_loading(images=2, rounds=1, data=str(tmp_path))
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match=r'text\.jpg cannot be read \(not an image'):
        loader.compare_loading(images=2, rounds=1, data=str(tmp_path))


def test_loading_of_many_bands(monkeypatch):
    """All make the same crops: of 16 bits here, floats there."""
    views = {}

    def watch(calls: dict, *args: object, **options: object) -> dict:
        views.update({name: call() for name, call in calls.items()})
        return interleave(calls, *args, **options)

    monkeypatch.setattr(bands, 'interleave', watch)
    rows = {row['name']: row for row in bands.compare_bands(size=16, bands=4, images=10, rounds=1, side=48)}
    assert list(rows) == list(views) and {name.partition(': ')[2] for name in rows} == set(bands.LAYOUTS)
    for name, row in rows.items():
        assert row['ratio'] == pytest.approx(rows[row['peer']]['ms'].median / row['ms'].median)
        for found, expected in zip(views[name], views[row['peer']], strict=True):
            assert found.shape == (4, 16, 16) and len(expected.unique()) > 500
            torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.51)


def test_loading_of_both(monkeypatch, tmp_path):
    monkeypatch.setattr(loader, 'LARGE_SIZE', (96, 128))
    folder = draw_jpegs(tmp_path / 'drawn', 3, 48, 64)
    rows = {row['name']: row for row in loader.compare_loading(size=16, images=2, rounds=2, data=str(folder))}
    assert len(rows) == (8 if loader._jpeg_crop else 7)
    assert rows['mmpretrain']['ratio'] == rows['mmpretrain, 2048x1536']['ratio'] == 1
    assert rows['mae_mm, 2048x1536']['peer'] == 'mmpretrain, 2048x1536'
    assert all(row['ms'].median > 0 for row in rows.values())


def test_embedding_of_both(tmp_path):
    """The same features, but for the kernel of the resize."""
    draw_jpegs(tmp_path, 5, 60, 80)
    rows = embed.compare_embedding(arch='tiny', img_size=32, data=str(tmp_path), batch_size=2, rounds=1)
    assert [row['name'] for row in rows][:2] == ['timm, float32', 'mae_mm, float32']
    assert rows[0]['ratio'] == 1 and all(row['images'] == 5 and row['ms'][0] > 0 for row in rows)
    assert rows[1]['cosine'] > 0.999 and all(row['cosine'] > 0.99 for row in rows)


def test_end_to_end_runs_are_of_one_shape():
    """Same files, batch, and number of weights; mmpretrain's has its class token's row in the decoder's table, too."""
    ours, theirs = (make(1) for make in (end2end.our_config, end2end.mmpretrain_config))
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size == 256
    assert ours.train_dataloader.dataset.data_root == theirs.train_dataloader.dataset.data_root
    counts = [sum(param.numel() for param in MODELS.build(cfg.model).parameters()) for cfg in (ours, theirs)]
    assert counts[0] == counts[1]


def test_rows_of_end_to_end_runs(monkeypatch):
    outputs = {'mmpretrain': '{"seconds": 8, "cpu_seconds": 9, "images_per_second": 10}',
               'mae_mm auto': 'noise\n{"seconds": 4, "cpu_seconds": 3, "images_per_second": 20}'}
    monkeypatch.setattr(end2end.subprocess, 'run', lambda command, **options: SimpleNamespace(
        returncode=0, stdout=outputs[command[3]]))
    rows = end2end.compare_runs(rounds=2)
    assert [(row['name'], row['ratio'], row['images_per_second']) for row in rows] == [
        ('mmpretrain', 1, 10), ('mae_mm auto', 3, 20)]


def test_batches_of_the_loader_reach_the_model_unchanged(tmp_path):
    """The preprocessor takes what the loader's row measures."""
    view = loader.ImageFolder(draw_jpegs(tmp_path, 1, 48, 64), [dict(type='mae_mm.LoadRandomResizedCrop', size=16)])[0]
    assert ImagePreprocessor()(dict(inputs=view['inputs'][None]))['inputs'].shape == (1, 3, 16, 16)
