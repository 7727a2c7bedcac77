"""The parts of a checkpoint as modules with plain tensors in and out, which exporters trace."""

import torch
from torch import Tensor, nn

from mae_mm.checkpoint.contents import Checkpoint
from mae_mm.checkpoint.formats import shorten
from mae_mm.checkpoint.loading import EXTRAS, load_pretrained
from mae_mm.evaluation.encoder import Encoder
from mae_mm.models.decoders import MAEDecoder
from mae_mm.models.patches import grid_of
from mae_mm.models.positions import resize_table
from mae_mm.models.targets import PixelTarget


class Portable(nn.Module):
    """Images (N, C, H, W), float32 and normalised, to float32, in whatever precision the weights have.

    `inputs` and `outputs` are their names, in the order of `forward`.
    """

    inputs = ('images', )
    outputs: tuple[str, ...]

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.encoder, self.backbone = encoder, encoder.backbone
        self.patch_size, self.in_chans = self.backbone.patch_size, self.backbone.in_chans

    @property
    def takes_any_size(self) -> bool:
        """Whether exporters can leave the size open: windows and relative positions depend on it in branches."""
        return not self.backbone.window_size and not any('.rel_pos' in name for name in self.backbone.state_dict())

    def examples(self, size: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
        """Inputs for images of `size`, (height, width), random but always the same."""
        return (torch.randn(batch, self.in_chans, *size, generator=torch.Generator().manual_seed(0)), )

    def cast(self, images: Tensor) -> Tensor:
        return images.to(self.backbone.cls_token.dtype)


class Features(Portable):
    """The encoder: `Encoder.features` of the last block. There is no class token with windows."""

    pools = dict(mean_token='mean', patch_tokens='tokens', class_token='cls')  # (N, D), (N, L, D), (N, D)

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        super().__init__(encoder, checkpoint)
        self.outputs = tuple(self.pools)[:2 + encoder.num_prefix]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        x, = self.backbone.block_tokens(self.cast(images), [self.backbone.depth - 1])
        return tuple(self.encoder.pooled(x, self.pools[name]).float() for name in self.outputs)


class Classifier(Portable):
    """A ViT with mmpretrain's linear head, behind the batch norm of linear probing if there is one: (N, classes)."""

    outputs = ('logits', 'scores')

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        super().__init__(encoder, checkpoint)
        tensors, others = checkpoint.tensors, dict(checkpoint.others)
        if 'head.weight' not in tensors:
            raise ValueError(
                f'{checkpoint.source} has no linear classification head (head.fc); beside the ViT it holds '
                f'{shorten(others) or "nothing"}. Give the file that a classifier\'s training wrote, or --what encoder')
        self.head = nn.Linear(*reversed(tensors['head.weight'].shape))
        self.head.load_state_dict({name: tensors[f'head.{name}'] for name in ('weight', 'bias')})
        self.norm = nn.Identity()
        if batch_norm := {name: others.pop(name) for name in checkpoint.others if name.startswith('neck.bn.')}:
            self.norm = nn.BatchNorm1d(self.backbone.embed_dim, eps=1e-6, affine=False)  # mmpretrain's ClsBatchNormNeck
            self.norm.load_state_dict({name.removeprefix('neck.bn.'): each for name, each in batch_norm.items()})
        if others:
            raise ValueError(
                f'{checkpoint.source} has more than a ViT and a linear head: {shorten(others)}; use --what encoder')

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.backbone(self.cast(images))[-1]
        logits = self.head(self.norm(x[:, 0] if x.ndim == 3 else x)).float()
        return logits, logits.softmax(-1)


class Reconstructor(Portable):
    """Encoder and decoder of pre-training, under masks that hide any patches, however many in each image.

    `mask` (N, rows, columns) bool, True = hidden. Here hidden patches stay in the encoder, but no query attends to
    them, so that the visible ones are what they are without them. `reconstruction` has the images' shape and units.
    """

    inputs, outputs = ('images', 'mask'), ('reconstruction', )

    def __init__(self, encoder: Encoder, checkpoint: Checkpoint) -> None:
        super().__init__(encoder, checkpoint)
        tensors, settings, source = checkpoint.tensors, checkpoint.settings, checkpoint.source
        if not checkpoint.has_decoder:
            raise ValueError(
                f'{source} holds an encoder only (no decoder weights), and nothing can be reconstructed without a '
                'decoder; give the file that pre-training wrote, or --what encoder')
        if variants := [name for name in checkpoint.others if name.startswith(EXTRAS)]:
            raise ValueError(
                f'{source} has {shorten(variants)}: only autoencoders of pixels whose encoder sees the visible patches '
                'alone can be exported; use --what encoder')
        width = len(tensors['decoder_embed.weight'])
        needed = dict(decoder_num_heads=settings.get('decoder_num_heads', 16 if width == 512 else None),
                      norm_pix_loss=settings.get('norm_pix_loss'))
        if unknown := [name for name, value in needed.items() if value is None]:
            raise ValueError(
                f'{source} does not give its {unknown[0]}; write it again with tools/convert_checkpoint.py --to mae_mm '
                f'--set {unknown[0]}=VALUE')
        self.target = PixelTarget(self.patch_size, self.in_chans, needed['norm_pix_loss'])
        self.decoder = MAEDecoder(
            width, checkpoint.decoder_depth, needed['decoder_num_heads'], self.backbone.embed_dim,
            self.backbone.grid_size, self.target.num_values)
        load_pretrained(self, checkpoint)

    def examples(self, size: tuple[int, int], batch: int) -> tuple[Tensor, ...]:
        images, = super().examples(size, batch)
        scores = torch.rand(batch, *grid_of(size, self.patch_size), generator=torch.Generator().manual_seed(1))
        return images, scores < 0.75

    def forward(self, images: Tensor, mask: Tensor) -> Tensor:
        grid, mask = mask.shape[1:], mask.flatten(1)
        seen = torch.cat([torch.ones_like(mask[:, :1]), ~mask], dim=1)[:, None, None]  # (N, heads, queries, keys)
        x = self.backbone.encode(self.backbone.embed(self.cast(images)), attn_mask=seen)
        x = self.decoder.decoder_embed(x)
        patches = x[:, 1:].where(~mask[..., None], self.decoder.mask_token)
        x = torch.cat([x[:, :1], patches], dim=1)
        x = x + resize_table(self.decoder.decoder_pos_embed, self.decoder.grid_size, grid)
        for block in self.decoder.decoder_blocks:
            x = block(x)
        return self.target.to_images(self.decoder.predict(x), images)


PORTABLE = {'encoder': Features, 'classifier': Classifier, 'reconstructor': Reconstructor}
