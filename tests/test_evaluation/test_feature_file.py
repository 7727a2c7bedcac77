"""Features on the disk: formats, continued runs, nothing half-written under the final name."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.features import read_features, read_names

from mae_mm.evaluation import feature_file
from mae_mm.evaluation.feature_file import HEADERS, FeatureFile, open_features

MADE_BY = dict(images=7, names='abc', weights='def', pool='mean', img_size=(32, 32))
SUFFIXES = ('.npy', '.safetensors', '.parquet')
ROWS = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
NAMES = [f'folder/{i}.jpg' for i in range(6)]
every_format = pytest.mark.parametrize('suffix', SUFFIXES)


def fill(file: FeatureFile, begin: int = 0, end: int = 7) -> None:
    """Images `begin` … `end`, of which number 3 is unreadable."""
    for i in range(begin, end):
        row = i - (i > 3)
        if i == 3:
            file.append(np.empty((0, *file.shape)), [], [(3, 'bad.jpg', 'truncated')])
        else:
            file.append(ROWS[row:row + 1].reshape(1, *file.shape), [NAMES[row]], [])


def written(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.parent.glob(f'{out.name}*')}


@every_format
def test_formats_are_those_of_their_libraries(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / 'new' / f'features{suffix}'
    file = FeatureFile(out, (5, ), MADE_BY)
    fill(file)
    assert not out.exists() and not file.complete
    file.finish()
    np.testing.assert_array_equal(read_features(out), ROWS)
    np.testing.assert_array_equal(file.read(), ROWS)
    assert read_names(out) == NAMES and file.complete and file.count == 6
    assert Path(f'{out}.unreadable.txt').read_text() == 'bad.jpg\ttruncated\n'
    record = json.loads(Path(f'{out}.json').read_text())
    assert record['shape'] == [6, 5] and record['unreadable'] == [3] and record['made_by']['weights'] == 'def'
    assert len(written(out)) == (3 if suffix == '.parquet' else 4)
    assert '6 x 5 float32' in str(file) and '1 unreadable' in str(file)


@every_format
def test_rows_of_tokens(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 2 x 3, in parquet two to a row group."""
    monkeypatch.setattr(feature_file, 'GROUP', 48)
    rows = np.arange(30, dtype=np.float32).reshape(5, 2, 3)
    file = FeatureFile(tmp_path / f'x{suffix}', (2, 3), MADE_BY)
    file.append(rows[:3], NAMES[:3], [])
    file.append(rows[3:], NAMES[3:5], [])
    file.finish()
    np.testing.assert_array_equal(read_features(file.out), rows)
    np.testing.assert_array_equal(file.read(), rows)
    if suffix == '.parquet':
        from pyarrow.parquet import ParquetFile
        assert ParquetFile(file.out).num_row_groups == 3


@pytest.mark.parametrize('suffix', ['.npy', '.safetensors'])
def test_headers_keep_their_length(suffix: str) -> None:
    lengths = {len(HEADERS[suffix]((num, 197, 1280))) for num in (0, 9, 10**6, 10**12)}
    assert len(lengths) == 1 and lengths.pop() % 64 == 0


@every_format
def test_a_killed_run_continues_from_its_last_state(tmp_path: Path, suffix: str) -> None:
    whole = FeatureFile(tmp_path / 'whole' / f'x{suffix}', (5, ), MADE_BY)
    fill(whole)
    whole.finish()
    out = tmp_path / 'killed' / f'x{suffix}'
    killed = FeatureFile(out, (5, ), MADE_BY)
    fill(killed, end=4)
    killed.save(now=True)
    fill(killed, 4, 6)  # is lost, half of it on the disk
    killed.close()
    killed = FeatureFile(out, (5, ), MADE_BY)
    assert (killed.position, killed.count, killed.unreadable) == (4, 3, [3])
    fill(killed, 4)
    killed.finish()
    assert written(out) == written(whole.out)
    again = FeatureFile(out, (5, ), MADE_BY)
    assert again.complete and again.count == 6 and again.unreadable == [3]


@every_format
@pytest.mark.parametrize('moment', ['replace', 'rmtree', 'copyfile', 'write_beside'])
def test_a_kill_at_the_end_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, moment: str,
) -> None:
    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / f'x{suffix}'
    file = FeatureFile(out, (5, ), MADE_BY)
    fill(file)
    file.save(now=True)
    with monkeypatch.context() as patch:
        if moment == 'replace':
            patch.setattr(Path, 'replace', lambda self, to: killed() if to == out else Path.rename(self, to))
        elif moment == 'write_beside':
            real = feature_file.write_beside
            patch.setattr(feature_file, 'write_beside', lambda path, write: (
                real(path, write) if path.name == feature_file.STATE else killed()))
        else:
            patch.setattr(shutil, moment, killed)
        with pytest.raises(KeyboardInterrupt):
            file.finish()
    assert out.exists() is (moment == 'rmtree')
    again = FeatureFile(out, (5, ), MADE_BY)
    if not again.complete:
        assert again.position == 7
        again.finish()
    np.testing.assert_array_equal(read_features(out), ROWS)
    assert read_names(out) == NAMES and not again.folder.exists()


@pytest.mark.parametrize('finished', [False, True])
def test_other_settings_or_data_are_refused_by_name(tmp_path: Path, finished: bool) -> None:
    out = tmp_path / 'x.npy'
    file = FeatureFile(out, (5, ), MADE_BY)
    fill(file)
    file.finish() if finished else file.save(now=True)
    before = written(out) if finished else None
    for change, told in (
            (dict(pool='cls'), 'pool mean, now cls'),
            (dict(images=8, names='xyz'), 'images 7, now 8, names abc, now xyz'),
            (dict(img_size=(32, 48)), r'img_size \[32, 32\], now \(32, 48\)')):
        with pytest.raises(ValueError, match=rf'x\.npy was .* \({told}\).*--overwrite'):
            FeatureFile(out, (5, ), {**MADE_BY, **change})
    assert not finished or written(out) == before
    new = FeatureFile(out, (5, ), {**MADE_BY, 'pool': 'cls'}, overwrite=True)
    assert new.position == 0 and out.exists() is finished  # the old one stays until the new one is complete
    new.append(ROWS[:2], NAMES[:2], [])
    new.finish()
    np.testing.assert_array_equal(read_features(out), ROWS[:2])
    assert not Path(f'{out}.unreadable.txt').exists() or not finished


def test_what_somebody_else_wrote_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / 'x.npy'
    np.save(out, ROWS)
    with pytest.raises(ValueError, match=r'x\.npy was written with other settings .*not known.*--overwrite'):
        FeatureFile(out, (5, ), MADE_BY)
    np.testing.assert_array_equal(np.load(out), ROWS)


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    for suffix, expected in (('.npy', b'caf\xe9.jpg\n'), ('.parquet', r'caf\xe9.jpg')):
        file = FeatureFile(tmp_path / f'x{suffix}', (5, ), MADE_BY)
        file.append(ROWS[:1], ['caf\udce9.jpg'], [])
        file.finish()
        found = read_names(file.out)[0] if suffix == '.parquet' else Path(f'{file.out}.names.txt').read_bytes()
        assert found == expected


def test_impossible_names_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r'x\.csv must end with one of \.npy, \.safetensors, \.parquet'):
        FeatureFile('x.csv', (5, ), MADE_BY)
    (tmp_path / 'x.npy').mkdir()
    with pytest.raises(IsADirectoryError, match='is a folder'):
        FeatureFile(tmp_path / 'x.npy', (5, ), MADE_BY)
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow', None)
    with pytest.raises(ValueError, match=r'pip install "mae_mm\[embed\]"'):
        FeatureFile('x.parquet', (5, ), MADE_BY)


@every_format
def test_a_finished_file_is_opened_by_its_name(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f'features{suffix}'
    file = FeatureFile(out, (5, ), MADE_BY)
    fill(file)
    with pytest.raises(FileNotFoundError, match='no file of features'):
        open_features(out)
    file.finish()
    before = written(out)
    rows, names, made_by = open_features(out)
    np.testing.assert_array_equal(rows, ROWS)
    assert names == NAMES and made_by['weights'] == 'def' and written(out) == before
    (tmp_path / f'features{suffix}.partial').mkdir()
    with pytest.raises(ValueError, match='is being written'):
        open_features(out)
    assert (tmp_path / f'features{suffix}.partial').is_dir()


@pytest.mark.parametrize('record', ['[]', '{"shape": [6, 5]}', 'no JSON'])
def test_a_file_without_its_record_is_refused(tmp_path: Path, record: str) -> None:
    np.save(tmp_path / 'x.npy', ROWS)
    (tmp_path / 'x.npy.json').write_text(record)
    with pytest.raises(ValueError, match=r'x\.npy\.json'):
        open_features(tmp_path / 'x.npy')
