"""What `MAE` predicts (Table 1d): pixels, PCA coefficients or a tokenizer's tokens.

All share one interface, in which N images have L patches and the decoder predicts P values for each:

    num_values             P
    min_valid              share of a patch's values that must be known, or it is left out of the loss
    __call__(imgs, pre)    (N, C, H, W) float, normalised by the preprocessor `pre` -> the target, (N, L, …)
    errors(pred, target)   (N, L, P) and the target -> (N, L) float32, a patch's loss
    to_images(pred, imgs)  (N, L, P) and the originals -> (N, C, H, W) float32, a picture of the prediction
    baselines(imgs, mask)  (N, L) bool masks -> the same of two predictors that learn nothing, two (N, L) float32

All calls take `valid` as well, (N, C, H, W) bool: which values are known. The others are 0 in `imgs`, and no error.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModule
from torch import Tensor

from mae_mm.models.patches import grid_of, patchify, unpatchify
from mae_mm.registry import MODELS

EPS = 1e-6  # added to the variance of a patch, as in the release
FLAT = 0.05  # of an image's deviation: patches with less have nothing to reconstruct


@MODELS.register_module()
class PixelTarget(BaseModule):
    """Pixels, as they are or normalised patch by patch (section 3, "reconstruction target").

    `patch_size` and `in_chans` are the encoder's; `MAE` fills them in.
    """

    min_valid = 0.5

    def __init__(
        self, patch_size: int = 16, in_chans: int = 3, norm_pix_loss: bool = True, loss_type: str = 'l2',
    ) -> None:
        super().__init__()
        if loss_type not in ('l2', 'l1'):
            raise ValueError(f"loss_type={loss_type!r} must be 'l2' (squared differences) or 'l1' (absolute ones)")
        self.patch_size, self.norm_pix_loss, self.loss_type = patch_size, norm_pix_loss, loss_type
        self.num_values = patch_size**2 * in_chans

    def forward(
        self, imgs: Tensor, preprocessor: BaseDataPreprocessor | None = None, valid: Tensor | None = None,
    ) -> Tensor:
        patches = patchify(imgs.float(), self.patch_size)
        if not self.norm_pix_loss:
            return patches
        mean, std = patch_stats(patches, self.known(valid))
        return (patches - mean) / std

    def known(self, valid: Tensor | None) -> Tensor | None:
        """(N, C, H, W) bool -> (N, L, P) bool."""
        return None if valid is None else patchify(valid, self.patch_size)

    def errors(self, pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            return patch_errors(pred, target, self.loss_type)
        known = self.known(valid)
        errors = patch_errors(pred.where(known, target), target, self.loss_type)
        return errors * self.num_values / known.sum(-1).clamp_min(1)

    def to_images(self, pred: Tensor, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        """Patches side by side; normalised ones get each true patch's own mean and deviation back."""
        pred = pred.float()
        if self.norm_pix_loss:
            mean, std = patch_stats(patchify(imgs.float(), self.patch_size), self.known(valid))
            pred = pred * std + mean
        return unpatchify(pred, self.patch_size, grid_of(imgs.shape[2:], self.patch_size))

    def baselines(self, imgs: Tensor, mask: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses of each patch's true mean, and of interpolation from the visible patches.

        Patches of one pixel are predicted by the mean colour of their image. With normalised targets the
        interpolation's own patch mean is subtracted, because the target's is zero.
        """
        patches = patchify(imgs.float(), self.patch_size)
        guess = patchify(interpolate_visible(imgs.float(), mask, self.patch_size, valid), self.patch_size)
        mean, std = patch_stats(patches, self.known(valid))
        scale = std if self.norm_pix_loss else 1.0
        offset = patch_stats(guess, self.known(valid))[0] if self.norm_pix_loss else mean
        flat = patches.mean(1, keepdim=True) if self.patch_size == 1 else mean
        target = (patches - mean) / scale
        return tuple(self.errors(pred / scale, target, valid) for pred in (flat - mean, guess - offset))


@MODELS.register_module()
class PCATarget(BaseModule):
    """The `num_values` largest coefficients of a principal component analysis of patches (Table 1d, "PCA"; 96 there).

    The components are buffers: a checkpoint holds them. `tools/fit_pca.py` fits them to a sample of the data and
    writes the file `fitted`, which is read when training begins.

    Args:
        whiten: divide the coefficients by their deviations, so that all count the same in the loss. Reconstruction
            neglects what has little variance, and classes may be there (arXiv:2402.11337): in images of many bands
            they are small differences of spectra beside large ones of light.
    """

    min_valid = 1.0

    def __init__(
        self, num_values: int = 96, fitted: str | None = None, whiten: bool = False, patch_size: int = 16,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        size = patch_size**2 * in_chans
        if num_values > size:
            raise ValueError(f'model.target.num_values={num_values}, and a patch has only {size} values')
        self.num_values, self.fitted, self.patch_size, self.whiten = num_values, fitted, patch_size, whiten
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('components', torch.zeros(num_values, size))  # orthonormal rows, the largest first
        self.register_buffer('deviations', torch.ones(num_values), persistent=whiten)
        self._is_fitted = False

    def init_weights(self) -> None:
        if self.is_init or self.fitted is None:
            return
        if not Path(self.fitted).is_file():
            raise FileNotFoundError(
                f'model.target.fitted={self.fitted} is missing: python tools/fit_pca.py CONFIG writes it')
        basis = torch.load(self.fitted, map_location='cpu', weights_only=True)
        self.set_components(**basis)
        self._is_init = True

    def set_components(self, mean: Tensor, components: Tensor, variances: Tensor) -> None:
        """Take what `fit_pca` returned: (P,), (…, P) and (…,), the largest first."""
        num_values, size = self.components.shape
        if components.shape[1] != size or len(components) < num_values:
            raise ValueError(
                f'{len(components)} components of {components.shape[1]} values do not fit a target of {num_values} '
                f'components of {size} values; run tools/fit_pca.py with the config that you train')
        self.mean.copy_(mean)
        self.components.copy_(components[:num_values])
        if self.whiten:
            least = torch.finfo(variances.dtype).eps * variances[0]  # of a constant component only noise remains
            self.deviations.copy_(variances[:num_values].clamp_min(least).sqrt())

    def forward(
        self, imgs: Tensor, preprocessor: BaseDataPreprocessor | None = None, valid: Tensor | None = None,
    ) -> Tensor:
        """(N, C, H, W) -> (N, L, `num_values`) float32, in units of the normalised image; whitened: of deviations."""
        if not self._is_fitted:  # read once: each reading waits for the device
            self._is_fitted = bool(self.components.any())
        if not self._is_fitted:
            raise ValueError('the PCA target has no components: set model.target.fitted, see tools/fit_pca.py --help')
        return (patchify(imgs.float(), self.patch_size) - self.mean) @ self.components.t() / self.deviations

    def errors(self, pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        return patch_errors(pred, target)

    def to_images(self, pred: Tensor, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        patches = (pred.float() * self.deviations) @ self.components + self.mean
        return unpatchify(patches, self.patch_size, grid_of(imgs.shape[2:], self.patch_size))

    def baselines(self, imgs: Tensor, mask: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Losses of the coefficients of flat patches of the right mean, and of the interpolated image."""
        patches = patchify(imgs.float(), self.patch_size)
        flat = patches.mean(-1, keepdim=True).expand_as(patches)
        flat = unpatchify(flat, self.patch_size, grid_of(imgs.shape[2:], self.patch_size))
        guess = interpolate_visible(imgs.float(), mask, self.patch_size, valid)
        return tuple(self.errors(self(pred), self(imgs)) for pred in (flat, guess))


@MODELS.register_module()
class TokenTarget(BaseModule):
    """Discrete tokens of a frozen tokenizer, predicted by cross-entropy, as in BEiT (Table 1d, "dVAE token").

    The tokenizer is part of the checkpoint, so that a run can be resumed without the file of its weights.

    Args:
        tokenizer: config of a module that turns (N, C, `stride` * rows, `stride` * columns) into (N, `num_values`,
            rows, columns) scores; by default mmpretrain's encoder of DALL-E's dVAE, in whose units pixels are fed.
        stride: pixels of its image for one token.
        weights: file with its state dict, loaded strictly when training begins. Required: random tokens teach little.
    """

    min_valid = 1.0

    def __init__(
        self, tokenizer: dict | None = None, num_values: int = 8192, stride: int = 8, weights: str | None = None,
        patch_size: int = 16, in_chans: int = 3,
    ) -> None:
        super().__init__()
        self.patch_size, self.num_values, self.stride, self.weights = patch_size, num_values, stride, weights
        self.tokenizer = MODELS.build({
            'type': 'mmpretrain.DALL-E', 'vocab_size': num_values, 'input_channels': in_chans,
            **(tokenizer or {})}).requires_grad_(False).eval()

    def init_weights(self) -> None:
        if self.is_init:
            return
        if self.weights is None:
            raise ValueError(
                "the token target needs its tokenizer's weights, e.g. DALL-E's encoder as mmpretrain publishes it: "
                '--cfg-options model.target.weights=FILE')
        content = torch.load(self.weights, map_location='cpu', weights_only=True)
        self.tokenizer.load_state_dict(content.get('state_dict', content))
        self._is_init = True

    def train(self, mode: bool = True) -> 'TokenTarget':
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def forward(self, imgs: Tensor, preprocessor: BaseDataPreprocessor, valid: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, L) int64, a token for each patch."""
        pixels = (imgs.float() * preprocessor.std + preprocessor.mean) / 255  # in [0, 1]
        size = [side * self.stride for side in grid_of(imgs.shape[2:], self.patch_size)]
        pixels = F.interpolate(pixels, size, mode='bicubic', antialias=True).clamp(0, 1)
        scores = self.tokenizer(0.8 * pixels + 0.1)  # DALL-E keeps pixels off 0 and 1 (arXiv:2102.12092, appendix A.3)
        return scores.argmax(1).flatten(1)

    def errors(self, pred: Tensor, target: Tensor, valid: Tensor | None = None) -> Tensor:
        return F.cross_entropy(pred.float().transpose(1, 2), target, reduction='none')

    def to_images(self, pred: Tensor, imgs: Tensor, valid: Tensor | None = None) -> Tensor:
        """The mean colour: only the dVAE's decoder, which this project does not have, could draw tokens."""
        return torch.zeros_like(imgs, dtype=torch.float32)

    def baselines(self, imgs: Tensor, mask: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both are the uniform guess: pixels tell no token's probability."""
        uniform = torch.full_like(mask, math.log(self.num_values), dtype=torch.float32)
        return uniform, uniform


def patch_stats(patches: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each patch: (N, L, P) -> two (N, L, 1); `known` as of `mean_and_variance`."""
    mean, variance = mean_and_variance(patches, known)
    return mean, (variance + EPS).sqrt()


def mean_and_variance(patches: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each patch: (N, L, P) -> two (N, L, 1).

    Of the values that are `known`, (N, L, P) bool; of all by default.
    """
    if known is None:
        return patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    count = known.sum(-1, keepdim=True).clamp_min(2)
    mean = (patches * known).sum(-1, keepdim=True) / count
    return mean, ((patches - mean) * known).square().sum(-1, keepdim=True) / (count - 1)


def flat_patches(imgs: Tensor, patch_size: int, valid: Tensor | None = None) -> Tensor:
    """Patches of (almost) one colour: (N, C, H, W) -> (N, L) bool. Values that are not `valid` do not count.

    Normalising divides by the deviation of the patch. Where that is close to 0, as on black backgrounds, the target is
    noise or nothing, and a smooth guess that is wrong by one gray level would count more than a thousand other patches.
    The loss of held-out images therefore leaves such patches out, for the model and for both baselines; training does
    not. `FLAT` bounds what remains: a patch can count a few hundred times the mean at most.
    """
    patches = patchify(imgs.float(), patch_size)
    known = None if valid is None else patchify(valid, patch_size)
    of_patches = mean_and_variance(patches, known)[1].squeeze(-1)  # (N, L)
    of_images = mean_and_variance(patches.flatten(1), None if known is None else known.flatten(1))[1]  # (N, 1)
    return of_patches <= FLAT**2 * of_images + EPS


def with_data(valid: Tensor, patch_size: int, share: float) -> Tensor:
    """Patches of whose values at least a share is known: (N, C, H, W) bool -> (N, L) bool."""
    return patchify(valid.float(), patch_size).mean(-1) >= share


def patch_errors(pred: Tensor, target: Tensor, loss_type: str = 'l2') -> Tensor:
    """Mean squared ('l2') or absolute ('l1') difference of each patch, float32: two (N, L, P) -> (N, L)."""
    difference = pred.float() - target.float()
    return (difference.abs() if loss_type == 'l1' else difference.square()).mean(-1)


def masked_means(errors: Tensor, mask: Tensor) -> Tensor:
    """Mean over each image's masked patches, 0 without any: (N, L) float and (N, L) bool -> (N,)."""
    return (errors * mask).sum(1) / mask.sum(1).clamp_min(1)


def interpolate_visible(imgs: Tensor, mask: Tensor, patch_size: int, valid: Tensor | None = None) -> Tensor:
    """Fill masked patches by smooth interpolation from the visible ones: the baseline that needs no learning.

    Normalised convolution: Gaussian-weighted means of the visible pixels, at four widths; a wider one counts a
    thousandth of the one before it, so it matters only where that one finds nothing. Visible pixels are smoothed, too.
    (N, C, H, W) float and (N, L) bool -> (N, C, H, W); pixels that are not `valid`, (N, C, H, W), count as masked.
    """
    visible = (~mask).to(imgs.dtype).unsqueeze(-1).repeat(1, 1, patch_size**2)
    visible = unpatchify(visible, patch_size, grid_of(imgs.shape[2:], patch_size))  # (N, 1, H, W)
    visible = visible if valid is None else visible * valid  # (N, C, H, W)
    stacked = torch.cat([imgs * visible, visible], dim=1)
    total = sum(1e-3**i * _blur(stacked, patch_size * 2.0**(i - 1)) for i in range(4))
    channels = imgs.shape[1]
    return total[:, :channels] / total[:, channels:].clamp_min(1e-30)


def _blur(imgs: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with zeros outside: (N, C, H, W), `sigma` in pixels."""
    for dim in (2, 3):
        steps = torch.arange(imgs.shape[dim], device=imgs.device, dtype=imgs.dtype)
        kernel = torch.exp(-0.5 * ((steps[:, None] - steps) / sigma).square())  # (S, S), symmetric
        imgs = torch.einsum('nchw,hk->nckw' if dim == 2 else 'nchw,wk->nchk', imgs, kernel)
    return imgs
