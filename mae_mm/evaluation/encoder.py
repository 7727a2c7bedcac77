"""The frozen encoder of any checkpoint: images in, features out."""

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from PIL import Image
from torch import Tensor, nn

from mae_mm.checkpoint.contents import PUBLISHED_HEADS, Checkpoint, read_checkpoint
from mae_mm.checkpoint.loading import load_pretrained
from mae_mm.checkpoint.trust import contents_of
from mae_mm.datasets.decode import pillow_array
from mae_mm.datasets.transforms import LoadResizeCenterCrop
from mae_mm.models.data_preprocessor import ImagePreprocessor
from mae_mm.models.patches import grid_of
from mae_mm.models.precision import native_dtype
from mae_mm.models.vit import ViT

POOLS = ('mean', 'cls', 'tokens')


class Encoder(nn.Module):
    """A `mae_mm.ViT` in evaluation mode, with what its images need; it computes in `native_dtype`, without gradients.

    Tokens of any block pass through the norm that the checkpoint has behind its last block: `norm` of pre-training and
    of classifiers by class token, `fc_norm` of classifiers by mean token, which stands after the mean, or, where there
    is none (detectors, segmentors), the standardisation of each token.

    Attributes:
        backbone: the ViT.
        preprocessor: the mean and deviation of its pixels.
        img_size: (height, width) to which images are brought: resized until they cover it, and the centre cropped.
        grid: rows and columns of patch tokens in such an image.
        load: the transform that reads an image: of `reading` (channels, dtype, bands, …), by default 8-bit RGB or gray.
        num_prefix: tokens before the patch tokens: 1, the class token, or 0 with windows.
        dtype: in which it computes; features are float32.
    """

    def __init__(
        self, backbone: ViT, preprocessor: ImagePreprocessor, img_size: tuple[int, int], reading: dict | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.preprocessor, self.img_size = backbone, preprocessor, img_size
        self.grid = grid_of(img_size, backbone.patch_size)
        self.num_prefix = 0 if backbone.window_size else 1
        channels = {3: 'rgb', 1: 'gray'}.get(backbone.in_chans, 'unchanged')
        self.load = LoadResizeCenterCrop(img_size, **{'channels': channels, **(reading or {})})
        self.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.backbone.cls_token.device

    @property
    def dtype(self) -> torch.dtype:
        return native_dtype(self.device.type)[0]

    def to(self, *args, **options) -> 'Encoder':
        self.preprocessor.to(*args, **options)  # which moves batches to where it was moved itself
        return super().to(*args, **options)

    def fingerprint(self) -> str:
        """A hash of weights, heads and pixel statistics: the same for one checkpoint in two files or formats."""
        vit, pixels = self.backbone, self.preprocessor
        digest = hashlib.sha256(f'{vit.blocks[0].attn.num_heads} {vit.window_size} {pixels.per_image}'.encode())
        for name, tensor in (*vit.state_dict().items(), *pixels.named_buffers()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:24]

    def load_image(self, image: Image.Image) -> Tensor:
        """An image of Pillow at `img_size`, as files are loaded: (C, height, width) uint8."""
        if (dtype := self.load.reading.dtype) != 'uint8':
            raise ValueError(
                f'the encoder reads pixels with dtype={dtype!r}, and images of Pillow have 8 bits: give files to '
                "tools/embed.py, or give `features` what encoder.load(dict(img_path=…))['inputs'] returns")
        return self.load(dict(decoded=pillow_array(image, self.load.channels)))['inputs']

    def embed_images(
        self, images: Sequence[Image.Image], pool: Literal[POOLS] = 'mean', blocks: int | Sequence[int] = 1,
    ) -> Tensor:
        """Features of N images of Pillow, of any size: `features` of what `load_image` makes of them."""
        if not isinstance(images, Sequence) or not images or not all(isinstance(one, Image.Image) for one in images):
            kinds = {type(one).__name__ for one in images} if isinstance(images, Sequence) else type(images).__name__
            raise ValueError(
                f'give a list of one or more images of Pillow, in memory; got {kinds}. For other pixels, give '
                "`features` a batch of encoder.load(dict(img_path=…))['inputs']")
        return self.features(torch.stack([self.load_image(image) for image in images]), pool, blocks)

    @torch.no_grad()
    def features(self, imgs: Tensor, pool: Literal[POOLS] = 'mean', blocks: int | Sequence[int] = 1) -> Tensor:
        """One vector for each image, or for each patch; several blocks are concatenated, the last one last.

        Args:
            imgs: (N, C, H, W), as loaded (uint8), of any size that is whole patches.
            pool: 'mean' of the patch tokens or 'cls', the class token: (N, blocks * D) float32; 'tokens', all patch
                tokens, row-major: (N, L, blocks * D).
            blocks: how many of the last blocks, or the positions of some, ascending.
        """
        if pool not in POOLS:
            raise ValueError(f'pool={pool!r} must be one of {", ".join(POOLS)}')
        if pool == 'cls' and not self.num_prefix:
            raise ValueError("pool='cls': this encoder attends in windows, which have no class token; use 'mean'")
        x = self.pooled(self._block_tokens(imgs, blocks), pool)
        return x.transpose(1, 2).flatten(2) if pool == 'tokens' else x.flatten(1)

    def pooled(self, x: Tensor, pool: Literal[POOLS]) -> Tensor:
        """Tokens after a block, (…, T, D), without norm -> normalised patch tokens, (…, L, D), or a vector, (…, D)."""
        x = x[..., 0, :] if pool == 'cls' else x[..., self.num_prefix:, :]
        if pool == 'mean' and isinstance(self.backbone.fc_norm, nn.LayerNorm):
            return self._normalise(x.mean(-2))
        x = self._normalise(x)
        return x.mean(-2) if pool == 'mean' else x

    @torch.no_grad()
    def tokens(self, imgs: Tensor, blocks: int | Sequence[int] = 1) -> Tensor:
        """All tokens after some blocks, normalised: (N, C, H, W) uint8 -> (N, B, num_prefix + L, D) float32.

        `blocks` as for `features`.
        """
        return self._normalise(self._block_tokens(imgs, blocks))

    def _block_tokens(self, imgs: Tensor, blocks: int | Sequence[int]) -> Tensor:
        depth = self.backbone.depth
        indices = range(depth - blocks, depth) if isinstance(blocks, int) else blocks
        if not len(indices) or indices[0] < 0 or indices[-1] >= depth or list(indices) != sorted(set(indices)):
            raise ValueError(
                f'blocks={blocks} must be 1 … {depth}, how many of the last blocks, or ascending positions of blocks, '
                f'0 … {depth - 1}')
        imgs, dtype = self.preprocessor(dict(inputs=imgs))['inputs'], self.dtype
        with nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype):
            tokens = self.backbone.block_tokens(imgs, indices)
        return torch.stack(tokens, dim=1).float()

    def _normalise(self, x: Tensor) -> Tensor:
        norms = [part for part in (self.backbone.norm, self.backbone.fc_norm) if isinstance(part, nn.LayerNorm)]
        return norms[0](x) if norms else F.layer_norm(x, x.shape[-1:], eps=1e-6)


def load_encoder(
    checkpoint: str | Path | Checkpoint, img_size: int | Sequence[int] | None = None, device: str | None = None,
    random_seed: int | None = None,
) -> Encoder:
    """The encoder in a checkpoint of any format, ready to embed images.

    Sizes, pixel statistics and norms are the file's: of pre-training, extracted encoders, classifiers, detectors and
    segmentors, and of the other libraries that `mae_mm.read_checkpoint` reads. What was loaded is logged.

    Args:
        img_size: pixels, one number or (height, width), to which images are brought; by default those of the file. The
            position table is resampled to them.
        device: a GPU if there is one, by default.
        random_seed: draw random weights, as before pre-training, in place of the file's: what features are worth is
            seen beside those of such an encoder.

    Raises:
        ValueError: if the file holds no ViT, or something that it needs is not known.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    tensors, settings, source = checkpoint.tensors, checkpoint.settings, checkpoint.source
    embed_dim, in_chans, patch_size = tensors['patch_embed.proj.weight'].shape[:3]
    num_heads = settings.get('num_heads', PUBLISHED_HEADS.get(embed_dim))
    if num_heads is None or 'blocks.0.mlp.fc1.weight' not in tensors:
        missing = 'transformer blocks' if num_heads else f'number of heads, and no published ViT is {embed_dim} wide'
        raise ValueError(f'{source} does not give its {missing}; write it again with tools/convert_checkpoint.py '
                         '--set num_heads=N, or give the file that training wrote')
    if img_size is None:
        if checkpoint.grid is None:
            raise ValueError(
                f'{source} has {checkpoint.num_positions} positions, and does not give their rows and columns; set '
                'img_size=(height, width) to that of its training')
        img_size = tuple(side * patch_size for side in checkpoint.grid)
    img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
    windows = settings.get('window_size', 0)
    drawn = random_seed is not None
    with torch.random.fork_rng(devices=[], enabled=drawn):
        if drawn:
            torch.manual_seed(random_seed)  # before the constructor, which draws the bias of the patch embedding
        backbone = ViT(
            dict(embed_dim=embed_dim, depth=checkpoint.depth, num_heads=num_heads,
                 mlp_ratio=len(tensors['blocks.0.mlp.fc1.weight']) / embed_dim),
            img_size, patch_size, ('bands' in settings and checkpoint.bands) or in_chans,
            out_type='raw' if 'norm.weight' in tensors else 'avg_featmap' if 'fc_norm.weight' in tensors else 'featmap',
            window_size=windows, rel_pos=any('.rel_pos' in name for name in tensors))
        if drawn:
            backbone.draw_weights()
    if not drawn:
        load_pretrained(backbone, checkpoint)
    pixels = {key: settings[key] for key in ('mean', 'std', 'clip', 'per_image') if key in settings}
    known = 'mean' in pixels and 'std' in pixels
    if in_chans != 3 and not (known or pixels.get('per_image')):
        raise ValueError(f'{source} does not give the mean and std of its {in_chans} channels')
    with contents_of(source):
        encoder = Encoder(backbone, ImagePreprocessor(**pixels), img_size, settings.get('reading'))
    encoder.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    mean, std = (' '.join(f'{x:g}' for x in getattr(encoder.preprocessor, key).flatten()) for key in ('mean', 'std'))
    origin = 'of the file' if known else "ImageNet's: the file gives none"
    MMLogger.get_current_instance().info(
        f'images: {img_size[0]}x{img_size[1]} px, {encoder.load.channels}, {encoder.load.reading.dtype}, mean {mean}, '
        f'std {std} ({origin}); '
        f'computing in {encoder.dtype} on {encoder.device}')
    return encoder
