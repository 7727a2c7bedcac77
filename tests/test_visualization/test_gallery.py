"""The page of nearest images."""

import base64
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers.features import encoder_of, write_photos
from PIL import Image

from mae_mm.evaluation.embed import Images, embed
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.vit import ViT
from mae_mm.visualization.gallery import write_gallery

SHADES = ('red', 'darkred', 'indianred', 'blue', 'navy', 'royalblue')


@pytest.fixture
def encoder(make_vit: Callable[..., ViT]) -> Encoder:
    return encoder_of(make_vit())


def sections(page: Path) -> list[tuple[str, list[tuple[float, str]], list[str]]]:
    """Of each query: its name, similarity and name of each neighbour, and all pictures."""
    found = []
    for section in re.findall(r'<section>(.*?)</section>', page.read_text(), re.DOTALL):
        names = re.findall(r'<figcaption title="(.*?)">', section)
        scores = [float(score) for score in re.findall(r'<b>(-?\d\.\d+)</b>', section)]
        found.append((names[0], list(zip(scores, names[1:], strict=True)), re.findall(r'src="(.*?)"', section)))
    return found


@pytest.mark.parametrize('suffix', ['.npy', '.safetensors', '.parquet'])
def test_neighbours_are_those_of_all_similarities(encoder: Encoder, tmp_path: Path, suffix: str) -> None:
    files = [str(file) for file in write_photos(tmp_path / 'photos', 8)]
    (tmp_path / 'photos/002.png').write_bytes(b'broken')  # rows are not positions
    images = Images([str(tmp_path / 'photos')], encoder)
    file = embed(encoder, images, tmp_path / f'x{suffix}')
    page = tmp_path / 'new' / 'page.html'
    write_gallery(str(page), encoder, images, file, 3, ['7'], 'vit.pth')
    del files[2]
    features = np.array(file.read())
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    found = sections(page)
    assert [name for name, _, _ in found] == files
    for i, (_, neighbours, _) in enumerate(found):
        similarity = features @ features[i]
        best = [j for j in np.argsort(-similarity) if j != i][:3]
        assert [name for _, name in neighbours] == [files[j] for j in best]
        np.testing.assert_allclose([score for score, _ in neighbours], similarity[best], atol=6e-4)


def test_given_queries_and_their_pictures(encoder: Encoder, tmp_path: Path) -> None:
    """The page holds everything; a query that is a copy of an image finds it, with its colour."""
    (tmp_path / 'photos').mkdir()
    for shade in SHADES:
        Image.new('RGB', (200, 100), shade).save(tmp_path / f'photos/{shade}.png')
    query = tmp_path / 'mine & yours.png'
    Image.new('RGB', (100, 300), 'navy').save(query)
    images = Images([str(tmp_path / 'photos')], encoder)
    page = tmp_path / 'page.html'
    write_gallery(str(page), encoder, images, embed(encoder, images, tmp_path / 'x.npy'), 6, [str(query)], 'vit.pth')
    (name, neighbours, pictures), = sections(page)
    assert name == str(query).replace('&', '&amp;') and len(neighbours) == 6  # all images: none is the query
    assert neighbours[0] == (1.0, str(tmp_path / 'photos/navy.png'))
    drawn = [Image.open(BytesIO(base64.b64decode(picture.split(',')[1]))) for picture in pictures]
    assert drawn[0].size == (48, 144) and drawn[1].size == (144, 72)
    for picture in drawn[:2]:
        np.testing.assert_allclose(np.array(picture).mean((0, 1)), (0, 0, 128), atol=3)
    assert 'http' not in page.read_text()


def test_pictures_of_bands(make_vit: Callable[..., ViT], tmp_path: Path) -> None:
    """Of six bands of 16 bits those called red, green and blue are shown, each stretched by its own percentiles."""
    vit = make_vit(in_chans=['blue', 'green', 'red', 'nir', 'swir1', 'swir2'])
    encoder = Encoder(vit, ImagePreprocessor([200] * 6, [50] * 6), (32, 32), dict(dtype='uint16', bands=6))
    (tmp_path / 'bands').mkdir()
    for i, step in enumerate((1, 100)):
        img = np.full((96, 100, 6), 3000, np.uint16)
        img[..., 2] += step * np.arange(100, dtype=np.uint16)
        np.save(tmp_path / f'bands/{i}.npy', img)
    images, page = Images([str(tmp_path / 'bands')], encoder), tmp_path / 'page.html'
    write_gallery(str(page), encoder, images, embed(encoder, images, tmp_path / 'x.npy'), 1, ['2'], 'vit.pth')
    for _, _, pictures in sections(page):
        shown = np.array(Image.open(BytesIO(base64.b64decode(pictures[0].split(',')[1])))).astype(int)
        assert shown.shape == (96, 100, 3)
        red, *others = shown.mean(0).T
        np.testing.assert_allclose(red, (np.arange(100) - 1.98).clip(0, 95.04) * 255 / 95.04, atol=20)  # a JPEG
        assert max(map(np.max, others)) < 20


def test_fewer_images_than_were_found(encoder: Encoder, tmp_path: Path) -> None:
    write_photos(tmp_path / 'photos', 4)
    (tmp_path / 'photos/002.png').write_bytes(b'broken')
    images = Images([str(tmp_path / 'photos')], encoder)
    file = embed(encoder, images, tmp_path / 'x.npy')
    page = tmp_path / 'page.html'
    with pytest.raises(ValueError, match=r'--neighbours 3: choose 1 … 2, there are 3 images'):
        write_gallery(str(page), encoder, images, file, 3, ['2'], 'vit.pth')
    assert not page.exists()
    query = tmp_path / 'bad.png'
    query.write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'--queries: .*bad\.png: not an image'):
        write_gallery(str(page), encoder, images, file, 3, [str(query)], 'vit.pth')
