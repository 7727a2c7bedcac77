"""A wheel built from the project works outside the checkout, and what is pinned agrees with what is declared."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT
from packaging.requirements import Requirement

pytestmark = pytest.mark.integration

IGNORED = shutil.ignore_patterns('.*', 'data', 'work_dirs', 'build', 'dist', '*.egg-info', '__pycache__')
PIP = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']

# One process pays the import of torch and mmengine once. It prints what the tests below assert.
PROBE = """
import contextlib, io, json, runpy, sys
from pathlib import Path
import mae_mm.paths
from mae_mm.transfer.published import published_metrics
from mmengine.config import Config

mim = Path(mae_mm.__file__).parent / '.mim'
facts = dict(package=mae_mm.__file__, models={}, tools={})
facts['root'] = str(mae_mm.paths.ROOT)
facts['published'] = published_metrics('configs/detection/vitdet_b_coco.py')
for path in sorted(mim.glob('configs/**/*.py')):
    facts['models'][str(path.relative_to(mim))] = Config.fromfile(path).get('model', {}).get('type')
for path in sorted(mim.glob('tools/*.py')):
    sys.argv = [str(path), '--help']
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            runpy.run_path(str(path), run_name='__main__')
        except SystemExit as stop:
            facts['tools'][path.name] = [stop.code or 0, out.getvalue()]
Path('mine.py').write_text('_base_ = f"{__import__(\\'mae_mm\\').CONFIGS}/detection/vitdet_b_coco.py"')
facts['inherited'] = Config.fromfile('mine.py').model.type
facts['next'] = mae_mm.paths.as_installed('python tools/visualize.py X; bash tools/dist_train.sh C 8; see tools/knn.py')
print(json.dumps(facts))
"""

# What is left with mmcv-lite and neither host: no compiled operators, no mmdet, no mmseg.
LITE = """
import sys
sys.modules.update({'mmcv._ext': None, 'mmdet': None, 'mmseg': None})
from mmengine.config import Config
from mmpretrain.registry import MODELS
for path in sys.argv[1:]:
    config = Config.fromfile(path)
    print(type(MODELS.build(config.model)).__name__)
"""


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the checkout and installed into an empty folder."""
    folder = tmp_path_factory.mktemp('packaging')
    shutil.copytree(ROOT, folder / 'source', ignore=IGNORED)
    subprocess.run([*PIP, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, folder / 'source'], check=True)
    wheel = next(folder.glob('mae_mm-*.whl'))
    subprocess.run([*PIP, 'install', '--no-deps', '--target', folder / 'site', wheel], check=True)
    shutil.rmtree(folder / 'source')
    return folder / 'site'


def files(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob(pattern) if '__pycache__' not in path.parts}


def test_the_wheel_carries_every_module_config_and_tool(site):
    package = site / 'mae_mm'
    assert files(package, '**/*.py') - files(package, '.mim/**/*.py') == files(ROOT / 'mae_mm', '**/*.py') - files(
        ROOT / 'mae_mm', '.mim/**/*.py')
    for name in ('configs', 'tools'):
        assert files(package / '.mim' / name, '**/*.*') == files(ROOT / name, '**/*.*')
    assert (package / '.mim' / 'model-index.yml').read_text() == (ROOT / 'model-index.yml').read_text()
    assert not (site / 'tests').exists()


def test_the_wheel_carries_its_licence(site):
    info = next(site.glob('mae_mm-*.dist-info'))
    assert {path.name for path in info.rglob('*')} >= {'LICENSE', 'NOTICE'}
    assert re.search(r'^License(-Expression)?: Apache-2.0$', (info / 'METADATA').read_text(), re.MULTILINE)


def test_configs_and_tools_work_outside_the_checkout(site, tmp_path):
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', PROBE], cwd=tmp_path, env={'PYTHONPATH': str(site)},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    assert facts['package'].startswith(str(site))
    assert facts['root'] == str(site / 'mae_mm/.mim') and (site / 'mae_mm/.mim/tools/dist_train.sh').is_file()
    assert facts['published'] == {'coco/bbox_mAP': 51.6, 'coco/segm_mAP': 45.9}
    assert facts['models'].keys() == {f'configs/{name}' for name in files(ROOT / 'configs', '**/*.py')}
    assert facts['models']['configs/mae_pretrain.py'] == 'mae_mm.MAE'
    assert facts['tools'].keys() == files(ROOT / 'tools', '*.py')
    for tool, (code, out) in facts['tools'].items():
        assert code == 0, tool
        assert 'usage:' in out, tool


    assert facts['inherited'] == 'MaskRCNN'
    assert facts['next'] == 'mae-mm visualize X; mae-mm dist_train C 8; see mae-mm knn'


def test_tools_of_a_wheel_are_run_by_name(site, tmp_path):
    def mae_mm(*args):
        return subprocess.run([sys.executable, '-m', 'mae_mm', *args], cwd=tmp_path, env={'PYTHONPATH': str(site)},
                              capture_output=True, text=True)
    names = re.findall(r'^  (\w+) +\S', mae_mm().stdout, re.MULTILINE)
    assert names == sorted(path.stem for path in (ROOT / 'tools').iterdir() if path.suffix in ('.py', '.sh'))
    assert mae_mm('knn', '--help').stdout.startswith('usage: knn.py')
    assert mae_mm('dist_train').returncode == 2
    wrong = mae_mm('trian')
    assert (wrong.returncode, wrong.stderr) == (1, "error: no tool 'trian'; did you mean 'train'? mae-mm lists them\n")
    assert 'mae-mm=mae_mm.__main__:main' in next(site.glob('*.dist-info/entry_points.txt')).read_text().replace(' ', '')


def test_pre_training_and_classification_need_no_compiled_operators():
    recipes = [ROOT / 'configs' / 'demo' / name for name in ('mae_pretrain.py', 'classification.py')]
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', LITE, *recipes], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-2:] == ['MAE', 'ImageClassifier']


def test_the_pinned_set_lies_inside_the_declared_ranges(site):
    """constraints.txt, the extras and tools/build_mmcv.py state versions independently; they must agree."""
    pins = {}
    for line in (ROOT / 'constraints.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                pins[canonical(requirement.name)] = re.search(r'==(.+)', str(requirement.specifier)).group(1)
    metadata = next(site.glob('mae_mm-*.dist-info')) / 'METADATA'
    declared = [Requirement(line) for line in re.findall(r'^Requires-Dist: (.+)$', metadata.read_text(), re.MULTILINE)]
    assert {'torch', 'mmdet', 'mmsegmentation', 'transformers'} <= {requirement.name for requirement in declared}
    for requirement in declared:
        assert requirement.specifier.contains(pins[canonical(requirement.name)]), requirement
    assert runpy.run_path(str(ROOT / 'tools' / 'build_mmcv.py'))['MMCV'] == f'mmcv=={pins["mmcv"]}'


def canonical(name: str) -> str:
    return name.lower().replace('_', '-')
