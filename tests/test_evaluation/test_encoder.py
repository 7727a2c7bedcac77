"""`load_encoder`: features of every kind of checkpoint, against its own model."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.checkpoints import HEADS, canonical, saved
from helpers.images import encode, photo
from PIL import Image
from torch import nn

import mae_mm
from mae_mm.checkpoint.contents import write_checkpoint
from mae_mm.datasets.transforms import LoadResizeCenterCrop
from mae_mm.evaluation import encoder as module
from mae_mm.evaluation.embed import Images, embed
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.vit import ViT

MEAN, STD = [10.0, 20.0, 30.0], [50.0, 60.0, 70.0]


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, 'native_dtype', lambda device: (torch.float32, 'for the tests'))


@pytest.fixture
def views() -> list[Image.Image]:
    return [Image.fromarray(photo(*size, seed=i)) for i, size in enumerate([(40, 60), (32, 32), (90, 33)])]


def file_of(model: nn.Module, path: Path, prefix: str = 'backbone.', **settings: object) -> str:
    state = {f'{prefix}{name}': tensor for name, tensor in model.state_dict().items()}
    return str(saved(dict(state_dict=state, meta=dict(mae_mm={'num_heads': 2, **settings})), path))


def test_features_are_the_backbones(make_vit: Callable[..., ViT], tmp_path: Path, views: list) -> None:
    vit = make_vit().eval()
    encoder = mae_mm.load_encoder(file_of(vit, tmp_path / 'e.pth', mean=MEAN, std=STD), device='cpu')
    assert (encoder.img_size, encoder.grid, encoder.num_prefix) == ((32, 32), (4, 4), 1)
    load = LoadResizeCenterCrop(32)
    imgs = torch.stack([load(dict(read=lambda v=v: encode(v, 'PNG'), img_path=''))['inputs'] for v in views])
    with torch.no_grad():
        tokens = vit(ImagePreprocessor(MEAN, STD)(dict(inputs=imgs))['inputs'])[0]
    torch.testing.assert_close(encoder.embed_images(views), tokens[:, 1:].mean(1))
    torch.testing.assert_close(encoder.embed_images(views, 'cls'), tokens[:, 0])
    torch.testing.assert_close(encoder.embed_images(views, pool='tokens'), tokens[:, 1:])
    assert not encoder.embed_images(views).requires_grad


def test_several_blocks_are_normalised_and_concatenated(make_vit: Callable[..., ViT], views: list) -> None:
    vit = make_vit().eval()
    encoder = Encoder(vit, ImagePreprocessor(), (32, 32))
    imgs = torch.stack([encoder.load_image(view) for view in views])
    with torch.no_grad():
        first, last = vit.block_tokens(encoder.preprocessor(dict(inputs=imgs))['inputs'], [0, 1])
        expected = torch.cat([vit.norm(first)[:, 1:], vit.norm(last)[:, 1:]], dim=2)
    torch.testing.assert_close(encoder.features(imgs, 'tokens', blocks=2), expected)
    torch.testing.assert_close(encoder.features(imgs, 'mean', blocks=2), expected.mean(1))
    torch.testing.assert_close(encoder.features(imgs, 'cls', blocks=[0]), vit.norm(first)[:, 0])
    assert encoder.tokens(imgs, 2).shape == (3, 2, 17, 32)
    torch.testing.assert_close(encoder.tokens(imgs, 2)[:, 1, 1:], expected[..., 32:])


def test_a_classifier_by_mean_token_normalises_behind_the_mean(
    make_vit: Callable[..., ViT], tmp_path: Path, views: list,
) -> None:
    vit = make_vit(out_type='avg_featmap').eval()
    encoder = mae_mm.load_encoder(file_of(vit, tmp_path / 'c.pth'), device='cpu')
    imgs = torch.stack([encoder.load_image(view) for view in views])
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(imgs), vit(ImagePreprocessor()(dict(inputs=imgs))['inputs'])[0])
    assert encoder.features(imgs, 'tokens').shape == (3, 16, 32)


@pytest.mark.parametrize('options', [{}, dict(window_size=2), dict(window_size=3, rel_pos=True), dict(rel_pos=True)])
def test_backbones_of_detectors_and_segmentors(
    make_vit: Callable[..., ViT], tmp_path: Path, views: list, options: dict,
) -> None:
    vit = make_vit(out_type='featmap', out_indices=[1], **options).eval()
    config = f'model = dict(backbone={dict(type="mae_mm.ViT", arch=dict(num_heads=2), img_size=32, patch_size=8)!r})'
    config = config.replace("'patch_size': 8", f"'patch_size': 8, 'window_size': {options.get('window_size', 0)}")
    state = {f'backbone.{name}': tensor for name, tensor in vit.state_dict().items()}
    content = dict(state_dict={**state, 'roi_head.weight': torch.zeros(3)}, meta=dict(cfg=config))
    encoder = mae_mm.load_encoder(saved(content, tmp_path / 'd.pth'), device='cpu')
    imgs = torch.stack([encoder.load_image(view) for view in views])
    with torch.no_grad():
        maps = vit(ImagePreprocessor()(dict(inputs=imgs))['inputs'])[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(encoder.features(imgs, 'tokens'), F.layer_norm(maps, (32, ), eps=1e-6))
    if 'window_size' in options:
        assert encoder.tokens(imgs).shape == (3, 1, 16, 32)
        with pytest.raises(ValueError, match=r"pool='cls'.* no class token"):
            encoder.features(imgs, 'cls')
    else:
        assert encoder.features(imgs, 'cls').shape == (3, 32)


@pytest.mark.parametrize('form', ['mae_mm', 'mae', 'timm', 'mmpretrain', 'huggingface'])
def test_every_format_has_the_same_features(
    make_mae: Callable[..., nn.Module], tmp_path: Path, views: list, form: str,
) -> None:
    checkpoint = canonical(make_mae(), **HEADS)
    path = tmp_path / ('folder' if form == 'huggingface' else 'file.pth')
    write_checkpoint(checkpoint.encoder_only() if form == 'timm' else checkpoint, path, form)
    expected = mae_mm.load_encoder(checkpoint, device='cpu').embed_images(views)
    if form in ('mae', 'timm', 'mmpretrain'):  # which do not say how many heads
        stored = torch.load(path)
        if form != 'mmpretrain':
            with pytest.raises(ValueError, match='number of heads, and no published ViT is 32 wide'):
                mae_mm.load_encoder(path, device='cpu')
        stored['meta'] = dict(mae_mm=HEADS)
        torch.save(stored, path)
    torch.testing.assert_close(mae_mm.load_encoder(path, device='cpu').embed_images(views), expected)


def test_size_is_chosen_and_may_be_a_rectangle(make_vit: Callable[..., ViT], tmp_path: Path, views: list) -> None:
    path = file_of(make_vit(), tmp_path / 'e.pth')
    assert mae_mm.load_encoder(path, img_size=48, device='cpu').grid == (6, 6)
    encoder = mae_mm.load_encoder(path, img_size=(16, 40), device='cpu')
    assert encoder.load_image(views[0]).shape == (3, 16, 40) and encoder.grid == (2, 5)
    assert encoder.embed_images(views, 'tokens').shape == (3, 10, 32)
    with pytest.raises(ValueError, match=r'30x30.* patches of 8 px.* 32x32'):
        mae_mm.load_encoder(path, img_size=30)


def test_images_of_any_mode(make_vit: Callable[..., ViT], tmp_path: Path, views: list) -> None:
    encoder = mae_mm.load_encoder(file_of(make_vit(), tmp_path / 'e.pth'), device='cpu')
    rgb = views[0]
    turned = rgb.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # a camera that was held upright: to be turned by 90 degrees clockwise
    both = encoder.embed_images([rgb, Image.merge('RGBA', [*rgb.split(), rgb.split()[0]])])
    assert torch.equal(both[0], both[1])
    assert torch.equal(encoder.load_image(turned), encoder.load_image(rgb))
    assert encoder.embed_images([rgb.convert('L'), rgb.convert('P'), rgb.convert('1')]).isfinite().all()


def test_gray_encoders_take_gray_and_state_their_statistics(make_vit: Callable[..., ViT], tmp_path: Path) -> None:
    vit = make_vit(in_chans=1)
    encoder = mae_mm.load_encoder(file_of(vit, tmp_path / 'g.pth', mean=[100.0], std=[50.0]), device='cpu')
    assert encoder.load_image(Image.fromarray(photo(40, 40))).shape == (1, 32, 32)
    with pytest.raises(ValueError, match='does not give the mean and std of its 1 channels'):
        mae_mm.load_encoder(file_of(vit, tmp_path / 'unknown.pth'))


def test_clipped_pixels_and_statistics_of_each_image_are_the_checkpoints(
    make_vit: Callable[..., ViT], tmp_path: Path,
) -> None:
    clip, imgs = [[0, 50, 0], [200, 200, 99]], torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    for options in (dict(mean=MEAN, std=STD, clip=clip), dict(per_image=True)):
        encoder = mae_mm.load_encoder(file_of(make_vit(), tmp_path / 'e.pth', **options), device='cpu')
        assert torch.equal(encoder.preprocessor.normalize(imgs), ImagePreprocessor(**options).normalize(imgs))


def test_bands_are_read_as_in_pre_training(make_vit: Callable[..., ViT], tmp_path: Path, views: list) -> None:
    """Six bands of 16 bits: the stored config says how its validation loads them."""
    vit = make_vit(in_chans=6).eval()
    pixels = dict(mean=[2000] * 6, std=[900, 800, 700, 600, 500, 400], clip=[[100] * 6, [3000] * 6])
    step = dict(type='mae_mm.LoadResizeCenterCrop', size=32, dtype='uint16', bands=6)
    text = (f'model = dict(backbone={dict(type="mae_mm.ViT", arch=dict(num_heads=2), img_size=32, patch_size=8)!r}, '
            f'data_preprocessor={dict(type="mae_mm.ImagePreprocessor", **pixels)!r})\n'
            f'val_dataloader = dict(dataset=dict(pipeline=[{step!r}]))')
    state = {f'backbone.{name}': tensor for name, tensor in vit.state_dict().items()}
    encoder = mae_mm.load_encoder(saved(dict(state_dict=state, meta=dict(cfg=text)), tmp_path / 'b.pth'), device='cpu')
    bands = np.random.default_rng(0).integers(0, 4000, (3, 32, 32, 6)).astype(np.uint16)
    for i, one in enumerate(bands):
        np.save(tmp_path / f'{i}.npy', one)
    file = embed(encoder, Images([str(tmp_path)], encoder), tmp_path / 'out' / 'x.npy')
    with torch.no_grad():
        tokens, = vit(ImagePreprocessor(**pixels)(dict(inputs=torch.from_numpy(bands).permute(0, 3, 1, 2)))['inputs'])
    np.testing.assert_allclose(file.read(), tokens[:, 1:].mean(1), atol=1e-5)
    with pytest.raises(ValueError, match=r"dtype='uint16'.* Pillow have 8 bits"):
        encoder.embed_images(views)


def test_batches_go_where_the_encoder_is(make_vit: Callable[..., ViT]) -> None:
    """The meta device stands for a GPU."""
    encoder = Encoder(make_vit(), ImagePreprocessor(), (32, 32)).to('meta')
    assert encoder.device.type == 'meta'
    assert encoder.preprocessor(dict(inputs=torch.zeros(2, 3, 32, 32)))['inputs'].device.type == 'meta'


def test_what_was_loaded_is_logged(make_vit: Callable[..., ViT], tmp_path: Path) -> None:
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = module.MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        mae_mm.load_encoder(file_of(make_vit(), tmp_path / 'a.pth', mean=MEAN, std=STD), device='cpu')
        mae_mm.load_encoder(file_of(make_vit(), tmp_path / 'b.pth'), device='cpu')
    finally:
        logger.removeHandler(handler)
    text = '\n'.join(lines)
    assert 'matched' in text and '32x32 px' in text
    assert 'mean 10 20 30, std 50 60 70 (of the file)' in text and "ImageNet's" in lines[-1]


def test_checkpoints_without_encoder_are_refused(tmp_path: Path, make_mae: Callable[..., nn.Module]) -> None:
    decoder = {f'neck.{name}': tensor for name, tensor in make_mae().neck.state_dict().items()}
    with pytest.raises(ValueError, match=r'holds no ViT: none of its .* is a patch embedding'):
        mae_mm.load_encoder(saved(dict(state_dict=decoder), tmp_path / 'decoder.pth'))
    whole = saved(dict(state_dict=make_mae().state_dict()), tmp_path / 'whole.pth')
    whole.write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match='not a checkpoint, or truncated'):
        mae_mm.load_encoder(whole)
    table = {'patch_embed.proj.weight': torch.zeros(192, 3, 8, 8)}
    with pytest.raises(ValueError, match='does not give its transformer blocks'):
        mae_mm.load_encoder(saved(table, tmp_path / 'table.pth'))


def test_a_grid_that_is_not_known_is_asked_for(make_vit: Callable[..., ViT], tmp_path: Path) -> None:
    path = file_of(make_vit(img_size=(16, 40)), tmp_path / 'e.pth')
    with pytest.raises(ValueError, match=r'10 positions.* rows and columns.* img_size'):
        mae_mm.load_encoder(path)
    assert mae_mm.load_encoder(path, img_size=(16, 40), device='cpu').grid == (2, 5)


def test_wrong_requests_name_the_choices(make_vit: Callable[..., ViT], views: list) -> None:
    encoder = Encoder(make_vit(), ImagePreprocessor(), (32, 32))
    for options, message in (
            (dict(pool='max'), "pool='max' must be one of mean, cls, tokens"),
            (dict(blocks=0), r'blocks=0 must be 1 … 2'), (dict(blocks=3), 'blocks=3'),
            (dict(blocks=[1, 0]), r'ascending positions of blocks, 0 … 1')):
        with pytest.raises(ValueError, match=message):
            encoder.embed_images(views, **options)
    for wrong in ([], views[0], 'cat.jpg', ['cat.jpg']):
        with pytest.raises(ValueError, match='list of one or more images of Pillow'):
            encoder.embed_images(wrong)
    with pytest.raises(ValueError, match=r"got \{'ndarray'\}.*`features`"):
        encoder.embed_images([np.zeros((4, 4, 5))])


def test_random_weights_are_those_before_pre_training(make_vit: Callable[..., ViT], tmp_path: Path) -> None:
    """Of the same architecture and statistics, by the seed alone."""
    file = file_of(make_vit(), tmp_path / 'e.pth', mean=MEAN, std=STD)
    one, again, other = (mae_mm.load_encoder(file, random_seed=seed) for seed in (0, 0, 1))
    assert len({one.fingerprint(), other.fingerprint(), mae_mm.load_encoder(file).fingerprint()}) == 3
    assert one.fingerprint() == again.fingerprint() and one.preprocessor.mean.flatten().tolist() == MEAN
    assert not one.backbone.blocks[0].mlp.fc1.bias.any() and torch.equal(one.backbone.pos_embed, make_vit().pos_embed)
