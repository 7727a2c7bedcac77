import numpy as np
import pytest
import torch

from mae_mm.datasets import ColorJitter, LoadRandomCrop


def ramp(height: int, width: int) -> np.ndarray:
    """(H, W, 3): red is the row, green the column."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows, cols, 0 * rows], -1).astype(np.uint8)


def test_window_of_fixed_size_by_hand():
    np.random.seed(0)
    load = LoadRandomCrop(size=(6, 8), resize=20)
    crops, flips = set(), 0
    for _ in range(60):
        out = load(dict(decoded=ramp(20, 30)))  # no resizing: the short side is 20 already
        top, left, height, width = out['crop']
        assert (height, width) == (6, 8) and out['inputs'].shape == (3, 6, 8) and out['inputs'].is_contiguous()
        view = out['inputs'].flip(-1) if out['flip'] else out['inputs']
        assert view[0, :, 0].tolist() == list(range(top, top + 6))
        assert view[1, 0].tolist() == list(range(left, left + 8))
        crops.add((top, left))
        flips += out['flip']
    tops, lefts = zip(*crops, strict=True)
    assert min(tops) <= 1 and max(tops) >= 13 and min(lefts) <= 2 and max(lefts) >= 20 and 15 < flips < 45
    assert LoadRandomCrop(size=(6, 8), resize=20, flip_prob=0)(dict(decoded=ramp(20, 30)))['flip'] is False


def test_the_short_side_is_256_for_224():
    assert LoadRandomCrop(224).resize == 256 and LoadRandomCrop(48).resize == 55
    out = LoadRandomCrop(224)(dict(decoded=ramp(100, 200)))
    assert out['crop'][0] <= 32 and out['crop'][1] <= 512 - 224
    with pytest.raises(ValueError, match='resize is 100, too small'):
        LoadRandomCrop(224, resize=100)


def test_jitter_changes_colours_and_follows_torchs_seed():
    img = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(ColorJitter()(dict(inputs=img.clone()))['inputs'])
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert results[0].dtype == torch.uint8 and results[0].shape == img.shape and not torch.equal(results[0], img)
    assert torch.equal(ColorJitter(0, 0, 0, 0)(dict(inputs=img.clone()))['inputs'], img)
