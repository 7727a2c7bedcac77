"""The kinds of answer that `MAE` can ask of its decoder (Table 1d): pixels, PCA coefficients, a tokenizer's tokens.

All share one interface, in which N images have L patches and the decoder gives P values for each:

    num_values             P
    __call__(imgs, pre)    (N, C, H, W) float, normalised by the preprocessor `pre` -> the target, (N, L, …)
    errors(pred, target)   (N, L, P) and the target -> (N, L) float32, a patch's loss
    to_images(pred, imgs)  (N, L, P) and the originals -> (N, C, H, W) float32, a picture of the answer
    baselines(imgs, mask)  losses of two predictors that learn nothing, two (N,) float32
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModule
from torch import Tensor

from mae_mm.checkpoint.files import read_content, unwrap
from mae_mm.checkpoint.trust import check_weights, contents_of
from mae_mm.models import targets
from mae_mm.models.patches import grid_of, patchify, unpatchify
from mae_mm.registry import MODELS


@MODELS.register_module()
class PixelTarget(BaseModule):
    """Pixels, as they are or normalised patch by patch (section 3, "reconstruction target").

    Args:
        patch_size, in_chans: of the encoder; `MAE` fills them in.
        norm_pix_loss: whether each patch is normalised by its own mean and deviation.
        loss_type: 'l2' or 'l1'.
    """

    def __init__(
        self, patch_size: int = 16, in_chans: int = 3, norm_pix_loss: bool = True, loss_type: str = 'l2',
    ) -> None:
        super().__init__()
        self.patch_size, self.norm_pix_loss, self.loss_type = patch_size, norm_pix_loss, targets.check_loss(loss_type)
        self.num_values = patch_size**2 * in_chans

    def forward(self, imgs: Tensor, preprocessor: BaseDataPreprocessor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, L, P) float32."""
        patches = patchify(imgs.float(), self.patch_size)
        return targets.normalize_patches(patches) if self.norm_pix_loss else patches

    def errors(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean error of each patch: (N, L)."""
        return targets.patch_errors(pred, target, self.loss_type)

    def to_images(self, pred: Tensor, imgs: Tensor) -> Tensor:
        """Patches side by side; normalised ones get each true patch's own mean and deviation back."""
        pred = pred.float()
        if self.norm_pix_loss:
            mean, std = targets.patch_stats(patchify(imgs.float(), self.patch_size))
            pred = pred * std + mean
        return unpatchify(pred, self.patch_size, grid_of(tuple(imgs.shape[2:]), self.patch_size))

    def baselines(self, imgs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Masked losses of the patch mean, and of interpolation from the visible patches."""
        return targets.baseline_losses(imgs, mask, self.patch_size, self.norm_pix_loss, self.loss_type)


@MODELS.register_module()
class PCATarget(BaseModule):
    """The largest coefficients of a principal component analysis of patches (Table 1d, "PCA"; 96 there).

    The components are buffers: a checkpoint holds them. `tools/fit_pca.py` fits them to a sample of the data.

    Args:
        num_values: coefficients to predict.
        fitted: file that `tools/fit_pca.py` wrote, read when training begins.
        patch_size, in_chans: of the encoder; `MAE` fills them in.

    Raises:
        ValueError: if a patch has fewer than `num_values` values.
    """

    def __init__(
        self, num_values: int = 96, fitted: str | None = None, patch_size: int = 16, in_chans: int = 3,
    ) -> None:
        super().__init__()
        size = patch_size**2 * in_chans
        if not 0 < num_values <= size:
            raise ValueError(f'num_values={num_values}: a patch has {size} principal components')
        self.num_values, self.fitted, self.patch_size = num_values, fitted, patch_size
        self.register_buffer('mean', torch.zeros(size))
        self.register_buffer('components', torch.zeros(num_values, size))  # orthonormal rows, the largest first

    def init_weights(self) -> None:
        """Take the components from the file.

        Raises:
            FileNotFoundError: if it is not there.
            ValueError: if it was fitted to other patches, or has too few components.
        """
        if self.is_init or self.fitted is None:
            return
        if not Path(self.fitted).is_file():
            raise FileNotFoundError(
                f'model.target.fitted: no file {self.fitted}; make it: python tools/fit_pca.py CONFIG --out '
                f'{self.fitted}')
        basis = unwrap(read_content(self.fitted)[0])[0]
        with contents_of(self.fitted):
            check_weights(basis)
            self.set_components(basis['mean'], basis['components'])
        self._is_init = True

    def set_components(self, mean: Tensor, components: Tensor) -> None:
        """Take what `fit_pca` returned: (P,) and (…, P), the largest first."""
        want = tuple(self.components.shape)
        if components.shape[1] != want[1] or len(components) < want[0]:
            raise ValueError(
                f'{len(components)} components of {components.shape[1]} values do not serve a target of {want[0]} '
                f'components of {want[1]} values; run tools/fit_pca.py with the config that you train')
        self.mean.copy_(mean)
        self.components.copy_(components[:want[0]])

    def forward(self, imgs: Tensor, preprocessor: BaseDataPreprocessor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, L, `num_values`) float32, in units of the normalised image."""
        return self.project(patchify(imgs.float(), self.patch_size))

    def project(self, patches: Tensor) -> Tensor:
        """Coefficients of patches: (N, L, P) -> (N, L, `num_values`).

        Raises:
            ValueError: if no components have been fitted or loaded.
        """
        if not self.components.any():
            raise ValueError('the PCA target has no components: set model.target.fitted, see tools/fit_pca.py --help')
        return (patches - self.mean) @ self.components.t()

    def errors(self, pred: Tensor, target: Tensor) -> Tensor:
        """Mean squared error of each patch's coefficients: (N, L)."""
        return targets.patch_errors(pred, target)

    def to_images(self, pred: Tensor, imgs: Tensor) -> Tensor:
        """The patches that have these coefficients, and none beyond."""
        patches = pred.float() @ self.components + self.mean
        return unpatchify(patches, self.patch_size, grid_of(tuple(imgs.shape[2:]), self.patch_size))

    def baselines(self, imgs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Masked losses of the coefficients of flat patches of the right mean, and of the interpolated image."""
        patches = patchify(imgs.float(), self.patch_size)
        guess = patchify(targets.interpolate_visible(imgs.float(), mask, self.patch_size), self.patch_size)
        flat = patches.mean(-1, keepdim=True).expand_as(patches)
        target = self.project(patches)
        patch_mean, interpolation = (
            targets.masked_means(self.errors(self.project(answer), target), mask) for answer in (flat, guess))
        return patch_mean, interpolation


@MODELS.register_module()
class TokenTarget(BaseModule):
    """Discrete tokens of a frozen tokenizer, predicted by cross-entropy, as in BEiT (Table 1d, "dVAE token").

    The tokenizer is part of the checkpoint, so that a run can be resumed without the file of its weights.

    Args:
        tokenizer: config of a module that turns (N, C, `stride` * rows, `stride` * columns) into (N, `num_values`,
            rows, columns) scores; by default mmpretrain's encoder of DALL-E's dVAE, in whose units pixels are fed.
        num_values: size of its vocabulary.
        stride: pixels of its image for one token.
        weights: file with its state dict, loaded strictly when training begins. Needed: random tokens teach little.
        patch_size, in_chans: of the encoder; `MAE` fills them in.
    """

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
        """Load the tokenizer's weights.

        Raises:
            ValueError: if none are given, or they do not fit.
            FileNotFoundError: if there is no such file.
        """
        if self.is_init:
            return
        if self.weights is None:
            raise ValueError(
                "the token target needs its tokenizer's weights, e.g. DALL-E's encoder as mmpretrain publishes it: "
                '--cfg-options model.target.weights=FILE')
        content = read_content(self.weights)[0]
        with contents_of(self.weights, 'does not fit the tokenizer'):
            weights = unwrap(content)[0]
            check_weights(weights)
            self.tokenizer.load_state_dict(weights)
        self._is_init = True

    def train(self, mode: bool = True) -> 'TokenTarget':
        """The tokenizer never trains."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    @torch.no_grad()
    def forward(self, imgs: Tensor, preprocessor: BaseDataPreprocessor) -> Tensor:
        """(N, C, H, W) -> (N, L) int64, a token for each patch."""
        grid = grid_of(tuple(imgs.shape[2:]), self.patch_size)
        pixels = (imgs.float() * preprocessor.std + preprocessor.mean) / 255  # in [0, 1]
        size = [side * self.stride for side in grid]
        pixels = F.interpolate(pixels, size, mode='bicubic', antialias=True).clamp(0, 1)
        scores = self.tokenizer(0.8 * pixels + 0.1)  # DALL-E keeps pixels off 0 and 1 (arXiv:2102.12092, appendix A.3)
        return scores.argmax(1).flatten(1)

    def errors(self, pred: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each patch: (N, L)."""
        return F.cross_entropy(pred.float().transpose(1, 2), target, reduction='none')

    def to_images(self, pred: Tensor, imgs: Tensor) -> Tensor:
        """The mean colour: only the dVAE's decoder, which is not here, could draw tokens."""
        return torch.zeros_like(imgs, dtype=torch.float32)

    def baselines(self, imgs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Both are the uniform guess: pixels tell no token's probability."""
        uniform = imgs.new_full((len(imgs), ), math.log(self.num_values), dtype=torch.float32)
        return uniform, uniform
