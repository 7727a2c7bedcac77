"""Exported files compute what the models do, alone, and only such files are written."""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT
from helpers.checkpoints import canonical, saved
from helpers.images import encode, photo
from mmengine.dataset import Compose, default_collate
from mmengine.registry import init_default_scope
from PIL import Image
from torch import Tensor, nn

from mae_mm.checkpoint.contents import read_checkpoint, write_checkpoint
from mae_mm.evaluation import encoder as encoders
from mae_mm.evaluation import export as module
from mae_mm.evaluation.encoder import load_encoder
from mae_mm.evaluation.export import describe, export
from mae_mm.evaluation.portable import PORTABLE, Portable
from mae_mm.registry import MODELS

MEAN, STD = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0]
CLIP = [[0, 0, 0], [200, 200, 99]]
SETTINGS = dict(
    num_heads=2, decoder_num_heads=2, norm_pix_loss=True, grid=(4, 4), mean=MEAN, std=STD, clip=CLIP)
EXAMPLE, = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), re.DOTALL)
CLASSES = ['cat', 'Öl', 'dog']
PIPELINE = [dict(type='mae_mm.LoadResizeCenterCrop', size=32, resize=40), dict(type='PackInputs', input_key='inputs')]


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, 'native_dtype', lambda device: (torch.float32, 'for the tests'))


@pytest.fixture
def pretrained(make_mae: Callable[..., nn.Module], tmp_path: Path) -> tuple[nn.Module, str]:
    """A masked autoencoder and its file."""
    model = make_mae().eval()
    write_checkpoint(canonical(model, **SETTINGS), tmp_path / 'mae.pth', 'mae_mm')
    return model, str(tmp_path / 'mae.pth')


def classifier(backbone: dict, neck: dict | None = None) -> nn.Module:
    """mmpretrain's model of our recipes."""
    init_default_scope('mmpretrain')
    model = MODELS.build(dict(
        type='ImageClassifier', neck=neck, backbone=dict(type='mae_mm.ViT', patch_size=8, img_size=32, arch=dict(
            embed_dim=32, depth=2, num_heads=2), **backbone),
        head=dict(type='mae_mm.LinearClsHead', num_classes=3, in_channels=32),
        data_preprocessor=dict(type='ClsDataPreprocessor', num_classes=3, mean=MEAN, std=STD)))
    with torch.no_grad():
        statistics = [each for name, each in model.named_buffers() if 'running_' in name]
        for tensor in (*model.parameters(), *statistics):
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else torch.randn_like(tensor) * 0.3)
    return model.eval()


def file_of(model: nn.Module, path: Path) -> str:
    """What training writes of a classifier."""
    config = (
        "model = dict(backbone=dict(type='mae_mm.ViT', img_size=32, patch_size=8, arch=dict(num_heads=2)))\n"
        f'data_preprocessor = dict(mean={MEAN}, std={STD})\n'
        f'test_dataloader = dict(dataset=dict(pipeline={PIPELINE}))\n')
    meta = dict(cfg=config, dataset_meta=dict(classes=CLASSES))
    return str(saved(dict(state_dict=model.state_dict(), meta=meta), path))


def part(what: str, path: str) -> Portable:
    checkpoint = read_checkpoint(path)
    return PORTABLE[what](load_encoder(checkpoint, device='cpu'), checkpoint).eval()


def session_of(path: Path) -> tuple[onnxruntime.InferenceSession, dict]:
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return session, {key: json.loads(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}


def run(session: onnxruntime.InferenceSession, **inputs: Tensor) -> dict[str, Tensor]:
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(names, {name: tensor.numpy() for name, tensor in inputs.items()})
    return dict(zip(names, map(torch.from_numpy, outputs), strict=True))


@torch.no_grad()
def test_an_encoder_has_the_features_of_load_encoder_at_every_size(
    pretrained: tuple[nn.Module, str], tmp_path: Path, capsys: pytest.CaptureFixture,
) -> None:
    export(pretrained[1], str(tmp_path / 'new' / 'e.onnx'), 'onnx')
    session, meta = session_of(tmp_path / 'new' / 'e.onnx')
    encoder = load_encoder(pretrained[1], device='cpu')
    for shape in ((1, 3, 32, 32), (5, 3, 40, 16)):
        imgs = torch.randint(256, shape, dtype=torch.uint8)
        outputs = run(session, images=encoder.preprocessor(dict(inputs=imgs))['inputs'])
        for name, pool in dict(mean_token='mean', patch_tokens='tokens', class_token='cls').items():
            torch.testing.assert_close(outputs[name], encoder.features(imgs, pool), rtol=0, atol=1e-4)
    assert meta['task'] == 'encoder' and meta['precision'] == 'fp32' and meta['channels'] == 'rgb'
    assert meta['mean'] == MEAN and meta['std'] == STD and meta['img_size'] == [32, 32] and meta['resize'] is None
    assert meta['clip'] == CLIP
    assert meta['arch'] == dict(embed_dim=32, depth=2, num_heads=2, patch_size=8, in_chans=3)
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['e.onnx']
    assert re.search(r'PyTorch in float32 \d\.\de-\d\d .*tolerated 0\.0001', capsys.readouterr().out)


@pytest.mark.parametrize('settings, expected', [
    ({}, dict(dtype='uint8', bands=None, nodata='file', window=None)),
    (dict(bands=['red', 'nir', 'vv'], reading=dict(dtype='uint16', bands=[4, 8, 1], window=[50, 400])),
     dict(dtype='uint16', bands=[4, 8, 1], nodata='file', window=[50, 400]))])
def test_how_pixels_are_read(make_vit: Callable, settings: dict, expected: dict) -> None:
    checkpoint = canonical(make_vit(), **SETTINGS, **settings)
    model = PORTABLE['encoder'](load_encoder(checkpoint, device='cpu'), checkpoint)
    meta = {key: json.loads(value) for key, value in describe(model, checkpoint, 'encoder', 'fp32').items()}
    assert meta['reading'] == expected and meta.get('bands') == settings.get('bands')
    assert model.backbone.bands == (('red', 'nir', 'vv') if settings else None)


@torch.no_grad()
def test_the_ten_lines_of_the_docs_predict_what_mmpretrain_predicts(tmp_path: Path) -> None:
    model = classifier(dict(out_type='avg_featmap'))
    export(file_of(model, tmp_path / 'c.pth'), str(tmp_path / 'classifier.onnx'), 'onnx')
    data = encode(Image.fromarray(photo(70, 50)), 'PNG')
    (tmp_path / 'cat.jpg').write_bytes(data)
    packed = default_collate([Compose(PIPELINE)(dict(img_path=str(tmp_path / 'cat.jpg')))])
    expected = model.test_step(packed)[0].pred_score
    more = "\nimport sys\nassert not {'torch', 'mmengine', 'mae_mm'} & set(sys.modules)\nprint(scores[0].tolist())"
    command = [sys.executable, '-c', EXAMPLE + more]
    label, scores = subprocess.run(command, cwd=tmp_path, text=True, stdout=-1, check=True).stdout.splitlines()
    assert label.split()[0] == CLASSES[expected.argmax()]
    torch.testing.assert_close(torch.tensor(json.loads(scores)), expected, rtol=0, atol=5e-3)
    assert session_of(tmp_path / 'classifier.onnx')[1]['resize'] == 40


@torch.no_grad()
def test_classifiers_by_class_token_have_their_batch_norm(tmp_path: Path, imgs: Tensor) -> None:
    model = classifier(dict(out_type='cls_token'), dict(type='ClsBatchNormNeck', input_features=32))
    logits, scores = part('classifier', file_of(model, tmp_path / 'c.pth'))(imgs)
    torch.testing.assert_close(logits, model.head(model.extract_feat(imgs)))
    torch.testing.assert_close(scores, logits.softmax(1))


@torch.no_grad()
@pytest.mark.parametrize('norm_pix_loss', [True, False])
def test_masked_attention_reconstructs_what_the_model_does(
    make_mae: Callable[..., nn.Module], tmp_path: Path, imgs: Tensor, norm_pix_loss: bool,
) -> None:
    model = make_mae(norm_pix_loss=norm_pix_loss).eval()
    write_checkpoint(canonical(model, **{**SETTINGS, 'norm_pix_loss': norm_pix_loss}), tmp_path / 'mae.pth', 'mae_mm')
    noise = torch.rand(2, 16)
    pred, mask = model.reconstruct(imgs, noise)
    found = part('reconstructor', str(tmp_path / 'mae.pth'))(imgs, mask.view(2, 4, 4))
    torch.testing.assert_close(found, model.to_images(pred, imgs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_reconstructor_in_fp16(pretrained: tuple[nn.Module, str], tmp_path: Path) -> None:
    export(pretrained[1], str(tmp_path / 'r.onnx'), 'onnx', 'reconstructor', fp16=True)
    inputs = torch.randn(2, 3, 40, 64), torch.rand(2, 5, 8) < torch.tensor([0.3, 0.9]).view(2, 1, 1)
    session, meta = session_of(tmp_path / 'r.onnx')
    found, expected = run(session, images=inputs[0], mask=inputs[1]), part('reconstructor', pretrained[1])(*inputs)
    assert 0 < (found['reconstruction'] - expected).abs().max() < 0.02 * expected.abs().max()
    weights = onnx.load(tmp_path / 'r.onnx').graph.initializer
    halves = [each for each in weights if each.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(each.dims) for each in halves) > 35_000 and meta['norm_pix_loss'] is True


@torch.no_grad()
def test_torch_export_at_another_fixed_size(pretrained: tuple[nn.Module, str], tmp_path: Path) -> None:
    export(pretrained[1], str(tmp_path / 'e.pt2'), 'torch-export', img_size=(48, 40), fixed_size=True)
    extra = {'mean': '', 'img_size': ''}
    program = torch.export.load(tmp_path / 'e.pt2', extra_files=extra).module()
    images = torch.randn(4, 3, 48, 40)
    torch.testing.assert_close(program(images), part('encoder', pretrained[1])(images), rtol=1e-4, atol=1e-4)
    assert json.loads(extra['img_size']) == [48, 40] and json.loads(extra['mean']) == MEAN
    with pytest.raises(Exception, match='48'):
        program(torch.randn(1, 3, 32, 32))


def test_encoders_with_windows_have_a_fixed_size_and_no_class_token(
    make_vit: Callable[..., nn.Module], tmp_path: Path,
) -> None:
    vit = make_vit(out_type='featmap', window_size=3, rel_pos=True)
    write_checkpoint(canonical(vit, num_heads=2, window_size=3), tmp_path / 'w.pth', 'mae_mm')
    export(str(tmp_path / 'w.pth'), str(tmp_path / 'w.onnx'), 'onnx')
    session, _ = session_of(tmp_path / 'w.onnx')
    assert session.get_inputs()[0].shape[1:] == [3, 32, 32]
    imgs = torch.randn(4, 3, 32, 32)
    outputs = run(session, images=imgs)
    torch.testing.assert_close(
        list(outputs.values()), list(part('encoder', str(tmp_path / 'w.pth'))(imgs)), rtol=1e-4, atol=1e-4)
    assert list(outputs) == ['mean_token', 'patch_tokens']


def test_large_weights_have_a_file_of_their_own(
    pretrained: tuple[nn.Module, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, 'ONE_FILE', 0)
    export(pretrained[1], str(tmp_path / 'big' / 'e.onnx'), 'onnx', fixed_size=True)
    assert sorted(file.name for file in (tmp_path / 'big').iterdir()) == ['e.onnx', 'e.onnx.data']
    assert run(session_of(tmp_path / 'big' / 'e.onnx')[0], images=torch.zeros(1, 3, 32, 32))


def test_what_differs_is_not_written(
    pretrained: tuple[nn.Module, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / 'e.pt2').write_text('an older export')
    before = sorted(tmp_path.iterdir())
    for options, message in (
            (dict(), r'nothing was written: mean_token differs .* by 0\.0e\+00, tolerated are -1'),
            (dict(fp16=True), r'of the largest output, tolerated are -1; .* export without --fp16')):
        monkeypatch.setattr(module, 'TOLERANCES', dict(fp32=-1, fp16=-1))
        with pytest.raises(ValueError, match=message):
            export(pretrained[1], str(tmp_path / 'e.pt2'), 'torch-export', fixed_size=True, **options)
    assert sorted(tmp_path.iterdir()) == before and (tmp_path / 'e.pt2').read_text() == 'an older export'


def test_differences_are_the_largest_of_all_and_nan_counts() -> None:
    ones, names = (torch.ones(2), torch.ones(3) * 4), ('a', 'b')
    near = (torch.ones(2) + 5e-5, torch.ones(3) * 4)
    assert module.compare(names, [ones, ones], [near, ones], 'fp32').startswith('5.0e-05 (a')
    for found in ((ones[0], ones[1] * 1.03), (ones[0], ones[1] * torch.nan)):
        with pytest.raises(ValueError, match='b differs'):
            module.compare(names, [ones, ones], [ones, found], 'fp16')


@pytest.mark.parametrize(('to', 'name'), [('onnx', 'e.onnx'), ('torch-export', 'e.pt2')])
def test_a_full_disk_leaves_nothing(pretrained: tuple[nn.Module, str], tmp_path: Path, to: str, name: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(tmp_path.iterdir())
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            export(pretrained[1], str(tmp_path / name), to, fixed_size=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(tmp_path.iterdir()) == before


def test_wrong_requests_are_one_message(
    pretrained: tuple[nn.Module, str], tmp_path: Path, make_vit: Callable[..., nn.Module],
    make_mae: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = pretrained[1]
    write_checkpoint(canonical(make_vit(), **SETTINGS), tmp_path / 'vit.pth', 'mae_mm')
    write_checkpoint(canonical(make_mae(), num_heads=2, decoder_num_heads=2), tmp_path / 'unknown.pth', 'mae_mm')
    tokens = make_mae(mask_token=True).state_dict()
    saved(dict(state_dict=tokens, meta=dict(mae_mm=SETTINGS)), tmp_path / 'tokens.pth')
    decoder = {name: tensor for name, tensor in tokens.items() if name.startswith('neck.')}
    saved(dict(state_dict=decoder), tmp_path / 'decoder.pth')
    for checkpoint, out, options, message in (
            (path, 'e.pt2', {}, r'OUT must end in \.onnx'),
            (path, 'e.onnx', dict(img_size=[33]), 'cannot be divided into patches of 8 px'),
            (path, 'e.onnx', dict(what='classifier'), 'no linear classification head'),
            ('vit.pth', 'e.onnx', dict(what='reconstructor'), 'holds an encoder only'),
            ('unknown.pth', 'e.onnx', dict(what='reconstructor'), 'norm_pix_loss; .* --set norm_pix_loss=VALUE'),
            ('tokens.pth', 'e.onnx', dict(what='reconstructor'), 'has mask_token'),
            ('decoder.pth', 'e.onnx', {}, 'holds no ViT')):
        with pytest.raises(ValueError, match=message):
            export(str(tmp_path / checkpoint), str(tmp_path / out), 'onnx', **options)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ValueError, match=r"needs onnxscript .*pip install 'mae_mm\[export\]'"):
        export(path, str(tmp_path / 'e.onnx'), 'onnx')
    assert not list(tmp_path.glob('e.onnx*'))
