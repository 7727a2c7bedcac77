"""What the documentation names exists: links, files, tools and their options, make targets, registered types."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
from helpers import ROOT

PAGES = [*sorted(ROOT.glob('*.md')), *sorted((ROOT / 'docs').glob('*.md'))]
LINK = re.compile(r'\]\(([^)\s]+)\)')
PATH = re.compile(r'(?<![\w./-])(?:configs|tools|docs|mae_mm|tests)/[\w./{},*…-]*(?![\w<])')
TOOL = re.compile(r'(?:python|bash) (tools/\w+\.(?:py|sh))((?:[^\n`]*\\\n)*[^\n`#]*)')
TYPE = re.compile(r'\bmae_mm\.([A-Z]\w+)(?![\w…])')
PLACEHOLDER = re.compile(r'/[A-Z]+\.py|csv_images')  # the second is made in an example of docs/extending.md


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


every_page = pytest.mark.parametrize('page', PAGES, ids=page_id)


def text_of(page: Path) -> str:
    """A page without the sections of old versions, whose names may be gone."""
    text = page.read_text()
    return text.split('\n## [')[0] if page.name == 'CHANGELOG.md' else text


def anchors(page: Path) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def expand(path: str) -> Iterator[str]:
    """'a/{b,c}.py' -> 'a/b.py', 'a/c.py'."""
    parts = [part.split(',') if i % 2 else [part] for i, part in enumerate(re.split(r'[{}]', path))]
    return (''.join(choice) for choice in product(*parts))


def exists(path: str) -> bool:
    """A file, folder, config without its suffix or pattern; a name that is cut short by '…' is not checked further."""
    path = path.split('…')[0].rstrip('.,')
    return any(any(ROOT.glob(pattern)) for pattern in (path.rstrip('/'), f'{path}.py'))


@every_page
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(text_of(page)):
        if '://' not in link:
            name, _, anchor = link.partition('#')
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_the_site_has_no_broken_link_or_reference(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', tmp_path / 'site'], cwd=ROOT,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (ROOT / 'docs').glob('*.md')}
    nav = re.findall(r'(\w+)\.md$', (ROOT / 'mkdocs.yml').read_text(), re.MULTILINE)
    assert pages == set(nav), 'every page of docs/ is in the navigation of mkdocs.yml'
    assert 'masked autoencoder' in (tmp_path / 'site/api.html').read_text().lower()


@every_page
def test_files_exist(page: Path) -> None:
    named = [one for path in PATH.findall(text_of(page)) for one in expand(path)]
    assert not [path for path in named if not exists(path) and not PLACEHOLDER.search(path)]


@every_page
def test_options_of_tools_exist(page: Path) -> None:
    for tool, arguments in TOOL.findall(text_of(page)):
        source = (ROOT / tool).read_text()
        if tool.endswith('.sh'):  # passes its arguments to train.py or test.py
            source += ''.join((ROOT / f'tools/{name}.py').read_text() for name in ('train', 'test'))
        for option in re.findall(r'(?<!\S)--[a-z][a-z-]*', arguments):
            assert f"'{option}'" in source, f'{tool} {option}'


@every_page
def test_make_targets_exist(page: Path) -> None:
    known = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    named = re.findall(r'(?:^|`)(?: {4})?make ((?:[a-z]+-?)+)', text_of(page), re.MULTILINE)
    assert set(named) <= known


@every_page
def test_registered_types_exist(page: Path) -> None:
    source = ''.join(path.read_text() for path in (ROOT / 'mae_mm').rglob('*.py')) + page.read_text()
    names = set(TYPE.findall(text_of(page))) - {'X'}
    assert not [name for name in names if not re.search(rf'\b(class|def) {name}\b', source)]


def test_the_checks_find_what_is_missing() -> None:
    assert exists('configs/demo/mae_pretrain.py') and exists('configs/demo/') and exists('configs/*/metafile.yml')
    assert not exists('configs/demo/mae_pretrained.py')
    assert list(expand('a/{b,c}.py')) == ['a/b.py', 'a/c.py']
    assert PATH.findall('(`tools/train.py`)') == ['tools/train.py']
    (tool, arguments), = TOOL.findall('python tools/test.py A \\\n    --out B   # --no-option')
    assert tool == 'tools/test.py' and '--out' in arguments and '--no-option' not in arguments
    assert TYPE.findall('type `mae_mm.ViT`') == ['ViT'] and LINK.findall('[a](b.md#c)') == ['b.md#c']
