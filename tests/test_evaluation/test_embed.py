"""`tools/embed.py`: the features of all images in order, whatever happens on the way."""

import os
import resource
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import saved
from helpers.features import encoder_of, exit_code, read_features, read_names, write_photos
from helpers.tools import run_tool
from PIL import Image

from mae_mm.evaluation import embed as module
from mae_mm.evaluation import feature_file
from mae_mm.evaluation.embed import Images, embed
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.vit import ViT
from mae_mm.stopping import TrainingStopped, UnreadableData


@pytest.fixture
def encoder(make_vit: Callable[..., ViT]) -> Encoder:
    return encoder_of(make_vit())


@pytest.fixture
def checkpoint(make_vit: Callable[..., ViT], tmp_path: Path) -> Path:
    state = {f'backbone.{name}': tensor for name, tensor in make_vit().state_dict().items()}
    return saved(dict(state_dict=state, meta=dict(mae_mm=dict(num_heads=2))), tmp_path / 'vit.pth')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """20 images, flat and nested."""
    write_photos(tmp_path / 'photos', 12)
    write_photos(tmp_path / 'photos/below/deeper', 8, first=12)
    return tmp_path / 'photos'


def test_files_folders_and_tars_in_one_list(encoder: Encoder, tmp_path: Path, folder: Path) -> None:
    loose = write_photos(tmp_path / 'loose', 3, first=30)
    with tarfile.open(tmp_path / 'shard.tar', 'w') as tar:
        for file in write_photos(tmp_path / 'packed', 2, first=40):
            tar.add(file, f'in/{file.name}')
    images = Images([str(loose[1]), str(loose[0]), str(folder), str(tmp_path / '*.tar'), str(loose[2])], encoder)
    out = embed(encoder, images, tmp_path / 'x.npy', batch_size=4, workers=2).out
    files = [loose[1], loose[0], *(folder / f'{i:03d}.png' for i in range(12)),
             *(folder / f'below/deeper/{i:03d}.png' for i in range(12, 20))]
    shard = [tmp_path / 'packed/040.png', tmp_path / 'packed/041.png']
    assert read_names(out) == [
        *map(str, files), f'{tmp_path}/shard.tar/in/040.png', f'{tmp_path}/shard.tar/in/041.png', str(loose[2])]
    expected = encoder.embed_images([Image.open(file) for file in (*files, *shard, loose[2])])
    np.testing.assert_allclose(read_features(out), expected, atol=2e-2)  # bfloat16, in other batches


def test_pools_and_blocks(encoder: Encoder, tmp_path: Path, folder: Path) -> None:
    images = Images([str(folder)], encoder)
    for options, shape in ((dict(pool='cls'), (20, 32)), (dict(blocks=2), (20, 64)),
                           (dict(pool='tokens', blocks=2), (20, 16, 64))):
        assert read_features(embed(encoder, images, tmp_path / 'x.npy', **options, overwrite=True).out).shape == shape


@pytest.mark.parametrize('suffix', ['.npy', '.parquet'])
@pytest.mark.parametrize('workers', [0, 2])
def test_an_interrupted_run_ends_as_a_whole_one(
    encoder: Encoder, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, workers: int,
    capsys: pytest.CaptureFixture,
) -> None:
    (folder / '005.png').write_bytes(b'broken')
    monkeypatch.setattr(feature_file, 'INTERVAL', 0)
    options = dict(batch_size=3, workers=workers)
    whole = embed(encoder, Images([str(folder)], encoder), tmp_path / f'whole{suffix}', **options)
    compute, calls = Encoder.features, []

    def stop(self: Encoder, *args: object) -> torch.Tensor:
        calls.append(0)
        if len(calls) == 5:  # one is to find the width
            raise KeyboardInterrupt
        return compute(self, *args)

    out = tmp_path / f'x{suffix}'
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, 'features', stop)
        with pytest.raises(KeyboardInterrupt):
            embed(encoder, Images([str(folder)], encoder), out, **options)
    assert not out.exists() and 'continuing' not in capsys.readouterr().out
    embed(encoder, Images([str(folder)], encoder), out, **options)
    assert 'continuing at image 10 of 20' in capsys.readouterr().out
    for path in tmp_path.glob(f'whole{suffix}*'):
        assert (tmp_path / path.name.replace('whole', 'x')).read_bytes() == path.read_bytes(), path.name
    assert read_names(whole.out)[5] == str(folder / '006.png') and whole.unreadable == [5]
    assert not out.with_name(f'x{suffix}.partial').exists()
    embed(encoder, Images([str(folder)], encoder), out, **options)
    assert capsys.readouterr().out.splitlines()[-1].startswith('complete before: ')


def test_other_weights_images_and_options_are_refused(
    encoder: Encoder, make_vit: Callable[..., ViT], tmp_path: Path, folder: Path,
) -> None:
    images, out = Images([str(folder)], encoder), tmp_path / 'x.npy'
    embed(encoder, images, out)
    with pytest.raises(ValueError, match=r'\(weights .*, now '):
        embed(encoder_of(make_vit()), images, out)
    with pytest.raises(ValueError, match=r'\(blocks 1, now 2\)'):
        embed(encoder, images, out, blocks=2)
    (folder / '003.png').rename(folder / '003b.png')
    with pytest.raises(ValueError, match=r'\(names .*, now '):
        embed(encoder, Images([str(folder)], encoder), out)
    embed(encoder, images, out, batch_size=7, workers=1)  # which change nothing


def test_too_many_unreadable_images_stop_it(encoder: Encoder, tmp_path: Path, folder: Path) -> None:
    for i in (2, 3, 4):
        (folder / f'{i:03d}.png').write_bytes(b'broken')
    images, out = Images([str(folder)], encoder), tmp_path / 'x.npy'
    with pytest.raises(TrainingStopped, match=r'3 of 20 images .*1\.00%.*unreadable\.txt.*--max-bad'):
        embed(encoder, images, out)
    listed = (tmp_path / 'x.npy.partial/unreadable.txt').read_text().splitlines()
    assert [line.split('\t')[0] for line in listed] == [str(folder / f'{i:03d}.png') for i in (2, 3, 4)]
    assert 'begins with' in listed[0] and not out.exists()
    file = embed(encoder, images, out, max_bad=0.2)
    assert file.count == len(read_names(out)) == len(read_features(out)) == 17 and file.unreadable == [2, 3, 4]


def test_a_folder_that_vanishes_and_comes_back(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The images after it are tried again, instead of being left out."""
    folder = tmp_path / 'photos'
    write_photos(folder, 12)
    monkeypatch.setattr(module, 'REPLACEMENTS', 4)
    monkeypatch.setattr(feature_file, 'INTERVAL', 0)
    images, compute = Images([str(folder)], encoder), Encoder.features

    def vanish(self: Encoder, imgs: torch.Tensor, *args: object) -> torch.Tensor:
        if len(imgs) == 3:
            folder.rename(tmp_path / 'away')
        return compute(self, imgs, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, 'features', vanish)
        with pytest.raises(UnreadableData, match='in a row cannot be read'):
            embed(encoder, images, tmp_path / 'x.npy', batch_size=3, max_bad=1)
    (tmp_path / 'away').rename(folder)
    assert embed(encoder, images, tmp_path / 'x.npy', batch_size=3).count == 12


def test_no_image_can_be_read(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / 'x.png').write_bytes(b'')
    with pytest.raises(ValueError, match=r'none of 1 images could be read: .*x\.png: empty file'):
        embed(encoder, Images([str(tmp_path / 'x.png')], encoder), tmp_path / 'x.npy')
    assert not (tmp_path / 'x.npy').exists()
    Image.new('RGB', (40, 40)).save(tmp_path / 'x.png')
    assert embed(encoder, Images([str(tmp_path / 'x.png')], encoder), tmp_path / 'x.npy').count == 1


def test_names_with_line_breaks_are_refused(encoder: Encoder, tmp_path: Path) -> None:
    write_photos(tmp_path / 'a\nb', 1)
    with pytest.raises(ValueError, match='line break in its name'):
        embed(encoder, Images([str(tmp_path / 'a\nb')], encoder), tmp_path / 'x.npy')


def tool(checkpoint: Path, *args: object) -> None:
    run_tool('embed', checkpoint, *args, '--batch-size', 3, '--workers', 0, '--device', 'cpu')


@pytest.mark.parametrize(('suffix', 'room'), [('.npy', 1800), ('.safetensors', 1800), ('.parquet', 2600)])
def test_sigkill_and_full_disk_then_the_same_command(
    checkpoint: Path, tmp_path: Path, folder: Path, suffix: str, room: int, capfd: pytest.CaptureFixture,
) -> None:
    """20 rows are 2,560 bytes; the file of parquet, which is made of them at the end, is larger."""
    out, args = tmp_path / f'x{suffix}', (checkpoint, folder, '--out')
    whole = tmp_path / f'whole{suffix}'
    tool(*args, whole)
    save = feature_file.FeatureFile.save

    def die(self: feature_file.FeatureFile, now: bool = False) -> None:
        save(self, now=True)
        if self.position == 9:
            self.append(np.ones((1, 32)), ['lost'], [])
            self.files[feature_file.ROWS].flush()
            os.kill(os.getpid(), signal.SIGKILL)

    def killed() -> None:
        feature_file.FeatureFile.save = die
        tool(*args, out)

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        tool(*args, out)

    assert exit_code(killed) == -signal.SIGKILL and not out.exists()
    assert exit_code(full) == 3 and not out.exists()
    assert 'File too large. Make room; the same command continues' in capfd.readouterr().err
    tool(*args, out)
    assert 'continuing at image' in capfd.readouterr().out
    assert out.read_bytes() == whole.read_bytes() and read_names(out) == read_names(whole)


@pytest.mark.parametrize(('args', 'told'), [
    (['nowhere', '--out', 'x.npy'], 'nowhere: no such file or folder'),
    (['empty', '--out', 'x.npy'], 'empty: no image (.jpg'),
    (['notes.txt', '--out', 'x.npy'], 'not a plain and complete tar'),
    (['photos', '--out', 'x.csv'], 'must end with one of .npy'),
    (['photos', '--out', 'x.npy', '--size', '30'], 'patches of 8 px'),
    (['photos', '--out', 'x.npy', '--blocks', '3'], 'blocks=3 must be 1 … 2'),
    (['photos', '--out', 'x.npy', '--neighbours', '20', '--html', 'g.html'], 'choose 1 … 19, there are 20 images'),
    (['photos', '--out', 'x.npy', '--neighbours', '2', '--html', 'g.html', '--queries', '21'], 'choose 1 … 20'),
    (['photos', '--out', 'x.npy', '--neighbours', '2', '--html', 'g.html', '--queries', 'gone'], 'gone: no such'),
    (['photos', '--out', 'x.npy', '--neighbours', '2', '--html', 'g.png'], '--html g.png must end with .html'),
    (['photos', '--out', 'x.npy', '--neighbours', '2'], '--html FILE go together'),
    (['photos', '--out', 'x.npy', '--pool', 'tokens', '--neighbours', '2', '--html', 'x.html'], 'needs --pool'),
    (['photos', '--out', 'x.npy', '--max-bad', '2'], '--max-bad must be a share'),
    (['photos', '--out', 'x.npy', '--workers', '-1'], '--workers must be 0 or more'),
    (['photos', '--out', 'x.npy', '--size', '8', '8', '8'], 'one or two numbers'),
    (['photos', '--out', 'x.npy', '--device', 'tpu'], '--device tpu'),
])
def test_mistakes_end_in_one_message(
    checkpoint: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture,
    args: list[str], told: str,
) -> None:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'notes.txt').write_text('no image')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match='2'):
        run_tool('embed', checkpoint, *args)
    err = capsys.readouterr().err
    assert told in err and 'Traceback' not in err
    assert not list(tmp_path.glob('x.*'))


def test_checkpoints_that_hold_no_encoder(
    checkpoint: Path, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture,
) -> None:
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes(checkpoint.read_bytes()[:9000])
    for path, told in ((truncated, 'truncated'), (saved(dict(a=torch.zeros(3)), tmp_path / 'a.pth'), 'holds no ViT'),
                       (tmp_path / 'gone.pth', 'no checkpoint at')):
        with pytest.raises(SystemExit, match='2'):
            run_tool('embed', path, folder, '--out', tmp_path / 'x.npy')
        err = capsys.readouterr().err
        assert told in err and 'Traceback' not in err


def test_a_rectangle(checkpoint: Path, tmp_path: Path, folder: Path) -> None:
    shutil.rmtree(folder / 'below')
    tool(checkpoint, folder, '--out', tmp_path / 'x.npy', '--size', 16, 40, '--pool', 'tokens')
    assert read_features(tmp_path / 'x.npy').shape == (12, 10, 32)
