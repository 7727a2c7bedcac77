"""Each fault is simulated by an `Environment` with one different answer; nothing is really broken."""

import json
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace

import pytest
import torch

from mae_mm import doctor
from mae_mm.doctor import BROKEN, NOTE, OK

REQUIREMENTS = [
    'torch<2.14,>=2.4', 'numpy>=1.26', 'setuptools<81', 'mmengine<1,>=0.10.5', 'mmpretrain<2,>=1.2',
    'mmdet<4,>=3.3; extra == "detection"', 'mmsegmentation<2,>=1.2.2; extra == "segmentation"',
    'mmdet<4,>=3.3; extra == "all"', 'pytest>=8; extra == "dev"',
]  # fmt: skip
INSTALLED = {
    'torch': {'torch': '2.11.0'}, 'numpy': {'numpy': '2.4.6'}, 'setuptools': {'setuptools': '79.0.1'},
    'mmengine': {'mmengine': '0.10.7'}, 'mmpretrain': {'mmpretrain': '1.2.0'}, 'mmcv': {'mmcv': '2.1.0'},
    'mmdet': {'mmdet': '3.3.0'}, 'mmseg': {'mmsegmentation': '1.2.2'},
}  # fmt: skip


class FakeEnvironment(doctor.Environment):
    """The tested set, without faults, except for the versions and the imports (module: module or error) given."""

    executable = '/env/bin/python'

    def __init__(self, versions=(), imports=(), requirements=REQUIREMENTS, python=(3, 11, 7), driver=False):
        self.python, self.driver, self._requirements = python, driver, requirements
        self._versions = {**INSTALLED, **dict(versions)}
        nms = SimpleNamespace(nms=lambda boxes, scores, threshold: (boxes, scores))
        registry = SimpleNamespace(MODELS={'mae_mm.ViT': object})
        self._imports = {
            'torch': fake_torch(), 'torchvision.ops': nms, 'mmcv.ops': nms, 'mmengine.registry': registry,
            'cv2': SimpleNamespace(__version__='5.0.0'), **dict(imports),
        }  # fmt: skip

    def versions(self, module):
        return self._versions.get(module, {})

    def requires(self, _):
        if isinstance(self._requirements, Exception):
            raise self._requirements
        return self._requirements

    def load(self, module):
        answer = self._imports.get(module, ModuleType(module))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def which(self, _):
        return self.driver


def fake_torch(gpus=(), **changes) -> SimpleNamespace:
    cuda = SimpleNamespace(is_available=lambda: bool(gpus), device_count=lambda: len(gpus),
                           get_device_properties=lambda index: gpus[index])
    torch_like = SimpleNamespace(
        __version__='2.11.0+cu130', cuda=cuda, backends=torch.backends, version=SimpleNamespace(cuda='13.0'),
        tensor=torch.tensor, get_num_threads=lambda: 2)
    return SimpleNamespace(**{**vars(torch_like), **changes})


def findings(**changes) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.diagnose(FakeEnvironment(**changes))}


def only_fault(**changes) -> doctor.Finding:
    broken = [finding for finding in findings(**changes).values() if finding.state == BROKEN]
    assert len(broken) == 1, broken
    return broken[0]


def test_a_crop_decoder_that_was_not_built_is_noted():
    finding = findings(imports={'mae_mm._jpeg_crop': ImportError('no module')})['crop decoder']
    assert finding.state == NOTE and 'apt-get install libjpeg62-turbo-dev && /env/bin/python -m pip' in finding.fix
    assert findings()['crop decoder'].state == OK


def test_a_healthy_environment_has_no_fault():
    found = findings()
    assert {finding.state for finding in found.values()} == {OK}
    assert found['mmengine'].wanted == '>=0.10.5,<1'
    assert 'pytest' not in found  # the developer's tools are not the user's problem


@pytest.mark.parametrize(('fault', 'name', 'fix'), [
    (dict(python=(3, 13, 0)), 'Python', 'make install PYTHON=python3.11'),
    (dict(versions={'torch': {'torch': '2.14.1'}}), 'torch', "pip install 'torch>=2.4,<2.14'"),
    (dict(versions={'numpy': {}}), 'numpy', "pip install 'numpy>=1.26'"),
    (dict(versions={'setuptools': {'setuptools': '82.0'}}), 'setuptools', "pip install 'setuptools<81'"),
    (dict(versions={'mmdet': {'mmdet': '2.28.2'}}), 'mmdet', "pip install 'mmdet>=3.3,<4'"),
    (dict(imports={'cv2': ImportError('libGL.so.1: cannot open shared object file')}), 'opencv',
     'apt-get install libgl1 libglib2.0-0'),
    (dict(imports={'cv2': ImportError("No module named 'cv2'")}), 'opencv',
     'pip install opencv-python'),
    (dict(imports={'torchvision.ops': RuntimeError('operator torchvision::nms does not exist')}),
     'torchvision operators', 'pip install --force-reinstall torch==2.11.0 torchvision'),
    (dict(imports={'mmseg.models': ModuleNotFoundError("No module named 'ftfy'", name='ftfy')}), 'mmseg models',
     'pip install ftfy'),
    (dict(imports={'mmdet.models': ValueError('numpy.dtype size changed, may indicate binary incompatibility')}),
     'mmdet models', 'pip install -U pycocotools scipy'),
    (dict(imports={'mmdet.models': TypeError('broken')}), 'mmdet models',
     'pip install --force-reinstall --no-deps mmdet==3.3.0'),
    (dict(imports={'mmengine.registry': SimpleNamespace(MODELS={})}), 'mae_mm.ViT',
     'pip install --no-deps --no-build-isolation -e'),
])  # fmt: skip
def test_a_fault_is_named_with_the_command_that_fixes_it(fault, name, fix):
    finding = only_fault(**fault)
    assert finding.name == name
    assert fix in finding.fix


def test_running_from_a_checkout_that_is_not_installed():
    finding = only_fault(requirements=PackageNotFoundError('mae_mm'))
    assert finding.name == 'mae_mm'
    assert '-m pip install --no-deps --no-build-isolation -e' in finding.fix


def test_a_missing_host_is_a_note_with_its_extra():
    found = findings(versions={'mmdet': {}})
    assert found['mmdet'].state == NOTE
    assert 'detection' in found['mmdet'].why
    assert 'mmdet models' not in found


def test_operators_are_needed_by_detection_and_segmentation_only():
    without_operators = dict(imports={'mmcv.ops': ModuleNotFoundError("No module named 'mmcv._ext'")})
    lite = {'mmcv': {'mmcv-lite': '2.1.0'}}
    finding = only_fault(versions=lite, **without_operators)
    assert finding.name == 'mmcv operators (cpu)'
    assert 'mmdet and mmseg need them' in finding.why
    assert finding.fix.startswith('/env/bin/python -m pip uninstall -y mmcv-lite && /env/bin/python ')
    assert finding.fix.endswith('tools/build_mmcv.py')

    alone = findings(versions={**lite, 'mmdet': {}, 'mmseg': {}}, **without_operators)
    assert alone['mmcv operators (cpu)'].state == NOTE
    assert alone['mmcv'].found == '2.1.0 (mmcv-lite)'
    assert BROKEN not in {finding.state for finding in alone.values()}


def test_operators_built_for_the_cpu_only_are_a_fault_beside_a_gpu():
    class CpuOnly:
        @staticmethod
        def nms(boxes, scores, threshold):
            if boxes == 'cuda':
                raise RuntimeError('nms_impl: implementation for device cuda:0 not found.')

    class Boxes(str):
        to = staticmethod(lambda device: device)

        def new_ones(self, count):
            return self

    gpu = SimpleNamespace(name='GPU', major=8, total_memory=2**30)
    finding = only_fault(imports={'torch': fake_torch([gpu], tensor=Boxes), 'mmcv.ops': CpuOnly})
    assert finding.name == 'mmcv operators (cuda)'
    assert 'cuda:0 not found' in finding.why


@pytest.mark.parametrize('error', [
    AssertionError('MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'),
    ModuleNotFoundError("No module named 'mmcv._ext'", name='mmcv._ext'),
    ImportError('/env/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c10'),
])  # fmt: skip
def test_a_host_that_refuses_mmcv_asks_for_the_tested_one(error):
    finding = only_fault(imports={'mmdet.models': error})
    assert finding.name == 'mmdet models'
    assert 'pip uninstall -y mmcv && ' in finding.fix
    assert finding.fix.endswith('tools/build_mmcv.py')


def test_two_providers_of_mmcv_overwrite_each_other():
    finding = only_fault(versions={'mmcv': {'mmcv': '2.1.0', 'mmcv-lite': '2.1.0'}})
    assert finding.found == '2.1.0, 2.1.0 (mmcv-lite)'
    assert 'uninstall -y mmcv mmcv-lite && ' in finding.fix


def test_mmpretrain_beside_a_transformers_it_cannot_use():
    finding = only_fault(
        versions={'transformers': {'transformers': '5.23.0'}},
        imports={'mmpretrain.models': ImportError("cannot import name 'GenerationMixin' from 'transformers'")})
    assert finding.name == 'mmpretrain models'
    assert finding.fix == "/env/bin/python -m pip install 'transformers<4.52'"


def test_the_forks_provide_the_same_modules():
    found = findings(versions={
        'mmcv': {'onedl-mmcv': '2.3.6'}, 'mmengine': {'onedl-mmengine': '0.10.12'},
        'mmpretrain': {'onedl-mmpretrain': '1.3.6'}, 'mmdet': {'onedl-mmdetection': '3.5.1'},
        'mmseg': {'onedl-mmsegmentation': '1.4.2'},
    })  # fmt: skip
    assert {finding.state for finding in found.values()} == {OK}
    assert found['mmengine'].found == '0.10.12 (onedl-mmengine)'


def test_a_fork_without_operators_is_built_from_the_same_fork():
    finding = only_fault(versions={'mmcv': {'onedl-mmcv': '2.3.6'}},
                         imports={'mmcv.ops': ModuleNotFoundError("No module named 'mmcv._ext'")})
    assert '--no-build-isolation' in finding.fix
    assert finding.fix.endswith(' onedl-mmcv==2.3.6')


def test_an_unforeseen_failure_is_reported_and_the_other_checks_continue():
    found = findings(imports={'torch': OSError('disk on fire')})
    for name in ('imports', 'hardware'):
        assert found[name].state == BROKEN and found[name].why == 'OSError: disk on fire'
    assert found['mae_mm.ViT'].state == found['mmdet'].state == OK


def test_gpus_are_listed_with_their_bf16_support():
    gpus = [SimpleNamespace(name='H100', major=9, total_memory=80 * 2**30),
            SimpleNamespace(name='V100', major=7, total_memory=16 * 2**30)]
    found = {finding.name: finding for finding in doctor.check_hardware(
        FakeEnvironment(imports={'torch': fake_torch(gpus)}))}
    assert found['GPU 0'].found == 'H100, 80 GiB, bf16'
    assert 'no bf16' in found['GPU 1'].found
    assert 'GPU' not in found


def test_a_driver_that_torch_cannot_use_is_a_note():
    assert findings(driver=True)['GPU'].state == NOTE


def test_report_and_exit_code(capsys):
    assert doctor.main([], FakeEnvironment()) == 0
    assert capsys.readouterr().out.endswith('Nothing is broken.\n')
    assert doctor.main([], FakeEnvironment(versions={'numpy': {}})) == 1
    out = capsys.readouterr().out
    assert 'BROKEN  numpy' in out
    assert "fix: /env/bin/python -m pip install 'numpy>=1.26'" in out
    assert '1 broken.' in out


def test_json(capsys):
    assert doctor.main(['--json'], FakeEnvironment(versions={'numpy': {}})) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer['ok'] is False
    assert [finding['name'] for finding in answer['findings'] if finding['state'] == 'broken'] == ['numpy']


@pytest.mark.slow
@pytest.mark.integration
def test_this_environment_is_sound():
    """The pinned set itself, with real imports in a process of its own; `make install` ends with the same check."""
    done = subprocess.run([sys.executable, '-m', 'mae_mm.doctor', '--json'], capture_output=True, text=True)
    broken = [finding for finding in json.loads(done.stdout)['findings'] if finding['state'] == 'broken']
    assert not broken
    assert done.returncode == 0


def test_commands_run_from_paths_with_spaces():
    env = FakeEnvironment()
    env.executable = '/my env/bin/python'
    assert shlex.split(env.pip('install', 'a>=1'))[0] == '/my env/bin/python'
