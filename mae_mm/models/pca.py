"""Principal components of patches, for `mae_mm.PCATarget` (MAE, arXiv:2111.06377, Table 1d)."""

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from torch import Tensor
from tqdm import tqdm

from mae_mm.datasets.decode import DecodeError
from mae_mm.models.patches import patchify
from mae_mm.models.targets import PCATarget, with_data
from mae_mm.registry import MODELS


def fit_pca(patches: Tensor) -> dict[str, Tensor]:
    """Principal components of patches (M, P), M of the order of P or more, all float32.

    `mean` (P,); `components` (P, P), orthonormal rows, the largest variance first; `variances` (P,) of coefficients.
    """
    patches = patches.double()
    mean = patches.mean(0)
    centred = patches - mean
    variances, vectors = torch.linalg.eigh(centred.t() @ centred / (len(patches) - 1))  # ascending
    return dict(
        mean=mean.float(), components=vectors.flip(1).t().contiguous().float(),
        variances=variances.flip(0).clamp_min(0).float())


def fit_to_images(cfg: Config, num_images: int = 5000) -> dict[str, Tensor]:
    """`fit_pca` on 64 random patches of each of `num_images` training images, cropped and normalised as in training.

    Patches with missing values and images that cannot be read are left out, as in training. The same in each call:
    images, crops and patches are drawn by fixed seeds, NumPy's by the number of the image.
    """
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    generator = torch.Generator().manual_seed(0)
    patch_size, rows = cfg.model.backbone.get('patch_size', 16), []
    for index in tqdm(torch.randperm(len(dataset), generator=generator)[:num_images].tolist(), 'patches', leave=False):
        np.random.seed(index)
        try:
            batch = preprocessor(dict(inputs=dataset[index]['inputs'][None]))
        except (OSError, DecodeError):
            continue
        patches = patchify(batch['inputs'], patch_size).flatten(0, 1)
        if 'valid' in batch:
            patches = patches[with_data(batch['valid'], patch_size, PCATarget.min_valid).flatten()]
        rows.append(patches[torch.randperm(len(patches), generator=generator)[:64]])
    patches = torch.cat(rows) if rows else torch.empty(0, 0)
    if len(patches) <= patches.shape[1]:
        raise ValueError(
            f'{len(patches)} whole patches are too few for components of {patches.shape[1]} values; give more images')
    return fit_pca(patches)
