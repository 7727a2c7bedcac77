"""The paper's wall-clock table (MAE, arXiv:2111.06377, Table 2): [M] in the encoder or not, decoder depth 8 and 1."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mae_mm.benchmark.timing import Rounds, interleave
from mae_mm.registry import MODELS

# encoder, mask tokens in it, decoder depth -> the paper's speed-up over the first of the same encoder
ROWS = {
    ('large', True, 8): 1.0, ('large', False, 8): 2.8, ('large', False, 1): 3.7,
    ('huge', True, 8): 1.0, ('huge', False, 8): 3.5, ('huge', False, 1): 4.1,
}
PATCH_SIZES = {'huge': 14}  # all others: 16


def build(arch: str, mask_token: bool, decoder_depth: int, img_size: int) -> nn.Module:
    """A masked autoencoder of the table, with the published width of the decoder."""
    return MODELS.build(dict(
        type='mae_mm.MAE', mask_token=mask_token,
        backbone=dict(type='mae_mm.ViT', arch=arch, img_size=img_size, patch_size=PATCH_SIZES.get(arch, 16)),
        neck=dict(type='mae_mm.MAEDecoder', depth=decoder_depth)))


def forward_backward(model: nn.Module, imgs: Tensor, autocast: bool) -> Callable[[], None]:
    """A call that computes loss and gradients."""
    def step() -> None:
        with torch.autocast(imgs.device.type, torch.bfloat16, enabled=autocast):
            loss = model.loss(imgs)['loss']
        loss.backward()
        model.zero_grad()
        if imgs.device.type == 'cuda':
            torch.cuda.synchronize()

    return step


def count_flops(model: nn.Module, img: Tensor) -> int:
    """Floating-point operations of the forward pass of one image, a multiply-add counted as two: (1, C, H, W)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.loss(img)
    return counter.get_total_flops()


def compare_table2(
    archs: tuple[str, ...] = ('large', 'huge'), img_size: int = 224, batch: int = 8, rounds: int | Rounds = 5,
    device: str = 'cpu', autocast: bool = True,
) -> list[dict]:
    """Time forward and backward of each row, the rows of one encoder interleaved.

    Args:
        archs: 'large', 'huge', or others, which the paper does not have.
        batch: images a step.
        autocast: whether in bfloat16.

    Returns:
        For each row: `arch`, `mask_token`, `decoder_depth`, `seconds` a step (`Timing`), `speedup` over the first row
        of its encoder, `paper` (its speed-up there, or None), and `gflops` of one image's forward pass.
    """
    table = []
    for arch in archs:
        kinds = [(True, 8), (False, 8), (False, 1)]
        models = {kind: build(arch, *kind, img_size).to(device) for kind in kinds}
        imgs = torch.randn(batch, 3, img_size, img_size, device=device)
        seconds = interleave({kind: forward_backward(model, imgs, autocast) for kind, model in models.items()}, rounds)
        for kind, model in models.items():
            table.append(dict(
                arch=arch, mask_token=kind[0], decoder_depth=kind[1], seconds=seconds[kind],
                speedup=seconds[kinds[0]].median / seconds[kind].median, paper=ROWS.get((arch, *kind)),
                gflops=count_flops(model, imgs[:1]) / 1e9))
        del models
    return table
