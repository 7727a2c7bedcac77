"""Features of image files: `tools/embed.py` against the plain loop that users of timm write."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import create_transform
from timm.models import VisionTransformer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mae_mm.benchmark.images import draw_jpegs
from mae_mm.benchmark.timing import Rounds, interleave
from mae_mm.datasets.find import find_images
from mae_mm.evaluation.embed import Images, embed
from mae_mm.evaluation.encoder import Encoder, load_encoder
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.precision import native_dtype
from mae_mm.models.vit import ViT


class Files(Dataset):
    """Image files through Pillow and timm's transform."""

    def __init__(self, paths: Sequence[str], encoder: Encoder) -> None:
        self.paths = paths
        pixels = encoder.preprocessor
        mean, std = ((value.flatten() / 255).tolist() for value in (pixels.mean, pixels.std))
        self.transform = create_transform(
            (3, *encoder.img_size), interpolation='bicubic', crop_pct=1.0, mean=mean, std=std)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.paths[index]).convert('RGB'))


class Float32(Encoder):
    dtype = torch.float32


def timm_model(backbone: ViT) -> VisionTransformer:
    """timm's ViT with the same weights; it averages the patch tokens after the norm."""
    model = VisionTransformer(
        [side * backbone.patch_size for side in backbone.grid_size], backbone.patch_size, num_classes=0,
        embed_dim=backbone.embed_dim, depth=backbone.depth, num_heads=backbone.blocks[0].attn.num_heads,
        global_pool='avg', fc_norm=False, norm_layer=type(backbone.norm))
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = backbone.norm.eps
    model.load_state_dict(backbone.state_dict())
    return model.eval()


@torch.inference_mode()
def embed_with_timm(model: VisionTransformer, files: Files, batch_size: int, dtype: torch.dtype) -> Tensor:
    """The plain loop, in one process: (N, D) float32."""
    features = []
    for imgs in DataLoader(files, batch_size):
        with nullcontext() if dtype == torch.float32 else torch.autocast('cpu', dtype):
            features.append(model(imgs).float())
    return torch.cat(features)


def compare_embedding(
    checkpoint: str | None = None, arch: str = 'base', img_size: int = 224, data: str | None = None, images: int = 60,
    batch_size: int = 64, rounds: int | Rounds = 5,
) -> list[dict]:
    """Time both from files to features, one thread, in this process's CPU time, interleaved.

    Args:
        checkpoint: with a final norm, as pre-training writes it, at its own size; by default a random ViT of `arch`,
            16-px patches and `img_size`.
        data: folder of images; by default `images` drawn JPEGs of 500x375 pixels.

    Returns:
        A row for each precision of each: `name`, `dtype`, milliseconds an image (`Timing`), `ratio`, timm's in
        float32 / this, and `cosine`, the lowest similarity of an image's features with timm's in float32.
    """
    torch.set_num_threads(1)
    encoder = load_encoder(checkpoint, device='cpu') if checkpoint else Encoder(
        ViT(arch, img_size), ImagePreprocessor(), (img_size, img_size))
    ours = Float32(encoder.backbone, encoder.preprocessor, encoder.img_size)
    model, features = timm_model(encoder.backbone), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = data or str(draw_jpegs(Path(temporary, 'images'), images, 375, 500))
        found, out = Images([folder], encoder), Path(temporary, 'features.npy')
        files = Files([f'{folder}/{name}' for name in find_images(folder)], encoder)

        def with_ours(name: str, encoder: Encoder) -> None:
            with redirect_stdout(StringIO()):
                file = embed(encoder, found, out, batch_size=batch_size, overwrite=True)
            features[name] = torch.from_numpy(file.read())

        def with_timm(name: str, dtype: torch.dtype) -> None:
            features[name] = embed_with_timm(model, files, batch_size, dtype)

        contestants = {}
        for dtype in dict.fromkeys((torch.float32, native_dtype('cpu')[0])):
            label = str(dtype).removeprefix('torch.')
            one = ours if dtype == torch.float32 else encoder
            contestants[f'timm, {label}'] = lambda name=f'timm, {label}', dtype=dtype: with_timm(name, dtype)
            contestants[f'mae_mm, {label}'] = lambda name=f'mae_mm, {label}', one=one: with_ours(name, one)
        seconds = interleave(contestants, rounds, clock=time.process_time)
        reference = features['timm, float32']
        return [dict(
            name=name, images=len(files), ms=tuple(1e3 * value / len(files) for value in timing),
            ratio=seconds['timm, float32'].median / timing.median,
            cosine=F.cosine_similarity(features[name], reference).min().item()) for name, timing in seconds.items()]
