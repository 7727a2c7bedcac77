"""Packaging: ranges and extras live here, the tested set in constraints.txt, the two-command set-up in the Makefile.

mmcv is deliberately not a requirement. PyPI has no wheel of it, `mmcv-lite` is enough for pre-training and
classification, and `onedl-mmcv` works for everything; pip cannot express "one of these". `tools/build_mmcv.py` builds
mmcv, and `python -m mae_mm.doctor` reports what is installed.
"""

import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

EXTRAS = {
    'detection': ['mmdet>=3.3,<4', 'pycocotools>=2.0.6'],
    # mmseg imports ftfy and regex and does not declare them.
    'segmentation': ['mmsegmentation>=1.2.2,<2', 'ftfy>=6.1', 'regex'],
    'demo': ['scikit-image>=0.22'],
    # Rivals without an encoder, the t distribution of verdicts, and perceptual hashes: well-kept, none of them here.
    'own-data': ['scikit-learn>=1.3', 'imagehash>=4.3'],
    # TIFF stacks, GeoTIFF in windows, DICOM: no one library reads them all.
    'pixels': ['tifffile>=2024.1', 'rasterio>=1.4,<2', 'pydicom>=3,<4'],
    'slides': ['openslide-python>=1.4', 'openslide-bin>=4'],  # whole slides: mae_mm.TiledImages
    'app': ['gradio>=6.17,<7'],  # tools/app.py; it asks for Pillow below 13
    'embed': ['pyarrow>=16'],  # tools/embed.py --out FILE.parquet
    # PyTorch's ONNX exporter, and the runtime that checks what it wrote.
    'export': ['onnx>=1.18', 'onnxruntime>=1.20', 'onnxscript>=0.5'],
}
EXTRAS['all'] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
# Tests compare converted checkpoints with transformers; mmpretrain 1.2.0 does not import beside 4.52 or newer.
# mkdocstrings reads the docstrings without importing the package.
EXTRAS['docs'] = ['mkdocs-material>=9.5', 'mkdocstrings[python]>=0.26']
EXTRAS['dev'] = [
    *EXTRAS['docs'],
    'hypothesis', 'ipykernel', 'nbclient', 'playwright>=1.50', 'pytest>=8', 'pytest-xdist>=3.6', 'ruff>=0.9',
    'tensorboard>=2.15', 'transformers>=4.40,<4.52', 'wheel']


class BuildWithMim(build_py):
    """Ship configs/, tools/ and model-index.yml in `mae_mm/.mim`, where OpenMMLab's tools look for them."""

    def run(self):
        super().run()
        editable = getattr(self, 'editable_mode', False)
        mim = (ROOT if editable else Path(self.build_lib)) / 'mae_mm' / '.mim'
        mim.mkdir(parents=True, exist_ok=True)
        for name in ('configs', 'tools'):
            target = mim / name
            if target.is_symlink():
                target.unlink()
            shutil.rmtree(target, ignore_errors=True)
            if editable:
                target.symlink_to(Path('..', '..', name))
            else:
                shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(ROOT / 'model-index.yml', mim)


setup(
    name='mae_mm',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'mae_mm' / '__init__.py').read_text()).group(1),
    description='Masked-autoencoder pre-training of a plain ViT, and its transfer, as an OpenMMLab plugin',
    long_description=(ROOT / 'README.md').read_text() if (ROOT / 'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author='The mae_mm authors',
    license='Apache-2.0',
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'License :: OSI Approved :: Apache Software License',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    keywords='masked autoencoder, MAE, vision transformer, self-supervised, OpenMMLab, mmpretrain, mmdet, mmseg',
    # Decodes only the crop of a JPEG. Needs libjpeg-turbo's headers; without them the installation continues.
    ext_modules=[Extension('mae_mm._jpeg_crop', ['mae_mm/csrc/jpeg_crop.c'], libraries=['jpeg'], optional=True)],
    packages=find_packages(include=['mae_mm', 'mae_mm.*']),
    package_data={
        'mae_mm.transfer': ['report.html', 'verdict.html'],
        'mae_mm.visualization': ['app.css', 'app.html', 'app.js', 'gallery.html', 'page.html']},
    entry_points={'console_scripts': ['mae-mm=mae_mm.__main__:main']},
    python_requires='>=3.10,<3.13',
    install_requires=[
        # 2.6 introduced exact allow-lists for checkpoints; the headers of 2.14 need C++20, and mmcv 2.1.0 is C++17.
        'torch>=2.6,<2.14',
        'torchvision>=0.21,<0.29',
        'timm>=1.0.31,<1.1',  # older ones do not resize a 2x8 position table to a 4x4 grid
        'mmengine>=0.10.5,<1',
        'mmpretrain>=1.2,<2',
        'setuptools<81',  # mmengine's `pkg::config` paths import pkg_resources
        'fsspec',
        'huggingface-hub>=0.30',
        'matplotlib',
        'numpy>=1.26',
        'jinja2',
        'packaging',
        'pillow',
        'safetensors',
        'tqdm',
    ],
    extras_require=EXTRAS,
    cmdclass={'build_py': BuildWithMim},
)
