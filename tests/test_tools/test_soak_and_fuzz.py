"""The long runs, for seconds: that they run, find what is put there, and write their figures."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import soak
from helpers.measured import write_block
from helpers.reliability import ROOT, TINY, logged, save_images
from helpers.soak import Sample, growth

sys.path.insert(0, str(ROOT / 'tests' / 'fuzz'))
import fuzz
import targets


@pytest.mark.parametrize('reader', targets.TARGETS)
def test_readers_bear_mutilated_files(reader: str, tmp_path: Path) -> None:
    outcomes = fuzz.fuzz(reader, 3, tmp_path / 'input')
    assert sum(outcomes.values()) > 5 and set(outcomes) <= {'read', 'ValueError', 'FileNotFoundError', 'DecodeError'}


def test_samples_are_read_as_they_are() -> None:
    for make in targets.TARGETS.values():
        samples, read = make()
        assert 'read' in {read(sample) for sample in samples}


def test_what_is_not_documented_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(data: bytes) -> str:
        if data[:1] != b'a':
            raise KeyError('not documented')
        return 'read'

    monkeypatch.setitem(targets.TARGETS, 'image', lambda: ([b'abc'], read))
    with pytest.raises(KeyError):
        fuzz.fuzz('image', 5, tmp_path / 'input')
    assert (tmp_path / 'input').read_bytes()[:1] != b'a'


def test_growth_is_seen() -> None:
    flat = [Sample(float(i), 100.0 + i % 2, 10) for i in range(100)]
    assert abs(growth(flat)[0]) < 0.02 and growth(flat)[1] == 0
    leak = [Sample(float(i), 100.0 + i, 10 + i // 10) for i in range(100)]
    assert growth(leak)[0] > 0.3 and growth(leak)[1] > 0


def test_the_group_is_killed_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in the training's place, with a worker, that needs three lives."""
    script = (f'echo Saving checkpoint; echo x >> {tmp_path}/n; '
              f'[ $(wc -l < {tmp_path}/n) -ge 3 ] || (sleep 77.5 & sleep 77.5)')

    def start(work: Path, options: list[str], log: Path) -> subprocess.Popen:
        with open(log, 'a') as output:
            return subprocess.Popen(['sh', '-c', script], stdout=output, start_new_session=True)

    monkeypatch.setattr(soak, 'start', start)
    result = soak.run_with_kills(tmp_path, [], tmp_path / 'log', 5, (0.5, 1))
    assert result['kills'] == 2 and result['moments'] == {'saving': 2} and len(result['lives']) == 3
    assert all(life[0].files > 0 and life[0].rss > 0 for life in result['lives'][:2])
    assert not subprocess.run(['pgrep', '-f', 'sleep 77.5'], capture_output=True, text=True).stdout


def test_figures_go_to_their_place(tmp_path: Path) -> None:
    doc = tmp_path / 'doc.md'
    doc.write_text('before\n<!-- soak -->\nold\n<!-- /soak -->\nafter\n')
    write_block('soak', ['- new'], doc)
    text = doc.read_text()
    assert text.startswith('before\n<!-- soak -->\nMeasured ') and text.endswith('- new\n<!-- /soak -->\nafter\n')
    assert 'old' not in text
    with pytest.raises(ValueError, match='0 places for fuzz'):
        write_block('fuzz', [], doc)
    for name in ('soak', 'fuzz'):
        assert (ROOT / 'docs/reliability.md').read_text().count(f'<!-- {name} -->') == 1


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    images = save_images(tmp_path / 'images')
    paths = {f'{loader}_dataloader.dataset.data_root': images for loader in ('train', 'val', 'test')}
    options = [f'{key}={value}' for key, value in {**TINY, **paths}.items() if 'max_epochs' not in key]
    result = subprocess.run(
        [sys.executable, 'tests/soak.py', '--epochs', '400', '--kills', '3', '--gap', '15', '30', '--no-docs',
         '--work-dir', str(tmp_path / 'soak'), '--cfg-options', *options],
        cwd=ROOT, text=True, capture_output=True, timeout=900)
    assert 'at the end: nothing' in result.stdout and '3 SIGKILLs' in result.stdout, result.stdout + result.stderr
    assert len(logged(tmp_path / 'soak' / 'killed')) > 400
