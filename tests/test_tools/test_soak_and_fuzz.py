"""Short runs of the fuzzer and of the soak test."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.reliability import ROOT, TINY, logged, save_images

sys.path.insert(0, str(ROOT / 'tests' / 'fuzz'))
import fuzz
import targets

pytestmark = pytest.mark.integration


@pytest.mark.parametrize('reader', targets.TARGETS)
def test_readers_give_documented_errors_for_mutilated_files(reader: str, tmp_path: Path) -> None:
    outcomes = fuzz.fuzz(reader, 3, tmp_path / 'input')
    assert sum(outcomes.values()) > 5 and set(outcomes) <= {'read', 'ValueError', 'FileNotFoundError', 'DecodeError'}


def test_the_tool_knows_every_target() -> None:
    source = (ROOT / 'tests' / 'fuzz' / 'fuzz.py').read_text()
    assert f"({', '.join(map(repr, targets.TARGETS))})" in source


def test_samples_are_read_as_they_are() -> None:
    for make in targets.TARGETS.values():
        samples, read = make()
        assert 'read' in {read(sample) for sample in samples}


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
