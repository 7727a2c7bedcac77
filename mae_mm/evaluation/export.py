"""A model in one file for runtimes without mae_mm and mmengine, compared with PyTorch before it is written."""

import importlib
import inspect
import io
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

import mae_mm
from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint
from mae_mm.checkpoint.files import PARTIAL
from mae_mm.evaluation.encoder import load_encoder
from mae_mm.evaluation.portable import PORTABLE, Portable

SUFFIXES = {'onnx': '.onnx', 'torch-export': '.pt2'}
ONNX_PACKAGES = ('onnx', 'onnxscript', 'onnxruntime')
TOLERANCES = {'fp32': 1e-4, 'fp16': 2e-2}  # from PyTorch's float32; fp16: in units of the largest output
ONE_FILE = 2 << 30  # bytes, the limit of protobuf; the weights of larger models are in a second file

Run = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]  # a written file: inputs to outputs


def export(
    checkpoint: str, out: str, to: Literal[tuple(SUFFIXES)], what: Literal[tuple(PORTABLE)] | None = None,
    fp16: bool = False, img_size: Sequence[int] | None = None, fixed_size: bool = False,
) -> None:
    """Write the model in a checkpoint for another runtime, if that computes what PyTorch does (`tools/export.py`)."""
    path, precision = _check_request(checkpoint, out, to), 'fp16' if fp16 else 'fp32'
    weights = read_checkpoint(checkpoint)
    what = what or ('classifier' if 'head.weight' in weights.tensors else 'encoder')
    encoder = load_encoder(weights, img_size and (*img_size, *img_size)[:2], device='cpu')
    model = PORTABLE[what](encoder, weights).eval().requires_grad_(False)
    size, patch, fixed_size = encoder.img_size, model.patch_size, fixed_size or not model.takes_any_size
    sizes = [size] if fixed_size else [size, (size[0] + 2 * patch, size[1] + patch), (3 * patch, 2 * patch)]
    inputs = [model.examples(each, batch) for batch, each in enumerate(sizes * (3 // len(sizes)), 1)]
    expected = [_as_tuple(model(*each)) for each in inputs]
    print(f'{what}: {weights}', 'tracing …', sep='\n', flush=True)
    metadata = describe(model, weights, what, precision)
    with folder_beside(path) as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of the exporters, about themselves
        program = trace(model.half() if fp16 else model, None if fixed_size else size, inputs[-1])
        run = WRITERS[to](program, model, metadata, folder / path.name)
        print('comparing …', flush=True)
        worst = compare(model.outputs, expected, [run(each) for each in inputs], precision)
    print(f'inputs     {", ".join(model.inputs)}: any number of images of '
          + ('{}x{} px'.format(*size) if fixed_size else f'any size in multiples of {patch} px'))
    print(f'outputs    {", ".join(model.outputs)}')
    print(f'precision  {precision}; largest difference from PyTorch in float32 {worst}')
    print(f'written    {path} ({path.stat().st_size / 2**20:.1f} MB)')


def describe(model: Portable, checkpoint: Checkpoint, what: str, precision: str) -> dict[str, str]:
    """What a program must know to use the file, each value as JSON."""
    encoder, vit = model.encoder, model.backbone
    settings, (height, width) = checkpoint.settings, encoder.img_size
    trained = checkpoint.grid or vit.grid_size
    resize = settings.get('resize')
    values = dict(
        mae_mm=mae_mm.__version__, task=what, precision=precision,
        arch=dict(embed_dim=vit.embed_dim, depth=vit.depth, num_heads=vit.blocks[0].attn.num_heads,
                  patch_size=vit.patch_size, in_chans=vit.in_chans),
        channels=encoder.load.channels, reading=asdict(encoder.load.reading),
        mean=_decimal(encoder.preprocessor.mean), std=_decimal(encoder.preprocessor.std),
        img_size=[height, width], interpolation='bicubic',
        # Of another size the same share of the image is cropped. Without it, the image is resized until it covers.
        resize=resize and round(resize * min(height, width) / (min(trained) * vit.patch_size)))
    values |= {name: settings[name] for name in ('bands', 'clip', 'per_image', 'stems_from') if settings.get(name)}
    if what == 'classifier' and 'classes' in settings:
        values['classes'] = list(settings['classes'])
    if what == 'reconstructor':
        values['norm_pix_loss'] = model.target.norm_pix_loss
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def trace(model: Portable, open_size: tuple[int, int] | None, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The graph of a model for any number of images, and for any size of them if `open_size` is the usual one."""
    batch, rows, columns = Dim('batch'), Dim('rows'), Dim('columns')
    patch, axes = model.patch_size, {name: {0: batch} for name in model.inputs}
    if open_size:
        # Neither equal sides nor the usual ones, for which the position table is not resampled.
        inputs = model.examples((open_size[0] + patch, open_size[1] + 2 * patch), 2)
        axes['images'] |= {2: patch * rows, 3: patch * columns}
        if 'mask' in axes:
            axes['mask'] |= {1: rows, 2: columns}
    return torch.export.export(
        model, inputs, dynamic_shapes=axes, strict=False, prefer_deferred_runtime_asserts_over_guards=True)


def compare(
    names: Sequence[str], expected: Sequence[tuple[Tensor, ...]], found: Sequence[Sequence[Tensor]], precision: str,
) -> str:
    """The largest difference of outputs, as text; a ValueError if it is above the tolerance."""
    worst = dict.fromkeys(names, 0.0)
    for pair in zip(expected, found, strict=True):
        for name, right, left in zip(names, *pair, strict=True):
            unit = 1.0 if precision == 'fp32' else right.abs().max().item()
            worst[name] = max(worst[name], (left - right).abs().max().item() / unit, key=lambda x: (x != x, x))  # NaN
    limit = TOLERANCES[precision]
    name, value = max(worst.items(), key=lambda item: (item[1] != item[1], item[1]))
    of = '' if precision == 'fp32' else ' of the largest output'
    if not value <= limit:
        raise ValueError(
            f'nothing was written: {name} differs from PyTorch in float32 by {value:.1e}{of}, tolerated are {limit:g}'
            + ('; weights or activations are too large for fp16: export without --fp16' if of else ''))
    return f'{value:.1e}{of} ({name}; tolerated {limit:g})'


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder, whose files move beside `path` if all goes well; `path` itself, which needs them, last."""
    folder = path.with_name(path.name + PARTIAL)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_onnx(program: ExportedProgram, model: Portable, metadata: dict[str, str], path: Path) -> Run:
    import onnxruntime

    size = sum(each.numel() * each.element_size() for each in model.state_dict().values())
    written = torch.onnx.export(
        program, (), input_names=model.inputs, output_names=model.outputs, dynamo=True, verbose=False)
    written.model.metadata_props.update(metadata)
    written.save(path, external_data=size >= ONE_FILE)
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        named = {name: each.numpy() for name, each in zip(model.inputs, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, named)]

    return run


def _write_torch_export(program: ExportedProgram, model: Portable, metadata: dict[str, str], path: Path) -> Run:
    content = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.export.save(program, content, extra_files=metadata)
    path.write_bytes(content.getbuffer())
    loaded = torch.export.load(path).module()
    return lambda inputs: _as_tuple(loaded(*inputs))


WRITERS = {'onnx': _write_onnx, 'torch-export': _write_torch_export}


def _decimal(values: Tensor) -> list[float]:
    """The shortest numbers of float32 values: 123.675, not 123.67500305."""
    return [float(f'{value:.7g}') for value in values.flatten()]


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs, )


def _check_request(checkpoint: str, out: str, to: str) -> Path:
    """Mistakes that need not wait for the model; the path of the file."""
    path = Path(out)
    if path.suffix != SUFFIXES[to]:
        raise ValueError(f'OUT must end in {SUFFIXES[to]} with --to {to}, got {out}')
    if path.exists() and Path(checkpoint).exists() and path.samefile(checkpoint):
        raise ValueError(f'OUT is the same file as CHECKPOINT ({checkpoint}); choose another name')
    if 'prefer_deferred_runtime_asserts_over_guards' not in inspect.signature(torch.export.export).parameters:
        raise ValueError(f'torch {torch.__version__} is too old to export models for images of any size; install 2.11')
    for package in ONNX_PACKAGES if to == 'onnx' else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ValueError(f"--to onnx needs {package} ({error}): pip install 'mae_mm[export]'") from error
    return path
