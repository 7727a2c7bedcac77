import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.masking import fixed_noise, random_masking, take

ratios = st.floats(0, 0.95)


def draw(n: int, num_patches: int, seed: int) -> torch.Tensor:
    return torch.rand(n, num_patches, generator=torch.Generator().manual_seed(seed))


def test_lowest_noise_stays_visible():
    ids_keep, ids_restore, mask = random_masking(torch.tensor([[0.2, 0.3, 0.1, 0.0], [0.0, 0.1, 0.2, 0.3]]), 0.5)
    assert ids_keep.tolist() == [[3, 2], [0, 1]]
    assert ids_restore.tolist() == [[2, 3, 1, 0], [0, 1, 2, 3]]  # rank of each patch's score
    assert mask.tolist() == [[True, True, False, False], [False, False, True, True]]


@pytest.mark.parametrize('num_patches, ratio, visible', [
    (196, 0.75, 49), (196, 0.5, 98), (36, 0.75, 9), (10, 0.75, 2), (5, 0, 5)])
def test_number_of_visible_patches(num_patches, ratio, visible):
    out = random_masking(draw(3, num_patches, 0), ratio)
    assert out.ids_keep.shape == (3, visible)
    assert (~out.mask).sum(1).tolist() == [visible] * 3


@given(n=st.integers(1, 4), num_patches=st.integers(20, 60), ratio=ratios, seed=st.integers(0, 99))
def test_mask_agrees_with_ids(n, num_patches, ratio, seed):
    ids_keep, ids_restore, mask = random_masking(draw(n, num_patches, seed), ratio)
    num_visible = int(num_patches * (1 - ratio))
    assert mask.dtype == torch.bool and mask.shape == (n, num_patches)
    for i in range(n):
        assert sorted(ids_keep[i].tolist()) == (~mask[i]).nonzero().flatten().tolist()
        assert ids_keep.shape[1] == num_visible
    # The shuffled sequence is the visible tokens, then anything; ids_restore puts each visible one back in its place.
    tokens = torch.arange(1, n * num_patches + 1).reshape(n, num_patches, 1)
    shuffled = torch.cat([take(tokens, ids_keep), tokens.new_zeros(n, num_patches - num_visible, 1)], dim=1)
    assert torch.equal(take(shuffled, ids_restore), tokens * ~mask[..., None])


@given(num_patches=st.integers(20, 60), ratio=ratios, seed=st.integers(0, 99))
def test_permuted_noise_permutes_the_mask(num_patches, ratio, seed):
    noise = draw(2, num_patches, seed)
    order = torch.randperm(num_patches, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(random_masking(noise[:, order], ratio).mask, random_masking(noise, ratio).mask[:, order])


def test_equal_noise_is_still_a_mask():
    ids_keep, ids_restore, mask = random_masking(torch.zeros(2, 50), 0.75)
    assert (~mask).sum(1).tolist() == [12, 12]
    assert ids_restore.sort(1).values.tolist() == [list(range(50))] * 2
    assert not mask.gather(1, ids_keep).any()


def test_every_patch_is_masked_equally_often_and_images_differ():
    mask = random_masking(draw(4000, 16, 0), 0.75).mask
    assert (mask.float().mean(0) - 0.75).abs().max() < 0.03  # 4.4 standard deviations
    pairs = (mask[:, 0] & mask[:, 1]).float().mean()
    assert abs(pairs - 12 / 16 * 11 / 15) < 0.03  # uniform over subsets: without replacement
    assert len(mask.unique(dim=0)) > 1500  # of the 1820 there are


@pytest.mark.parametrize('ratio', [1, 1.0, 1.5, 75, -0.1, float('nan')])
def test_ratio_outside_0_1_is_refused(ratio):
    with pytest.raises(ValueError, match=rf'mask_ratio={ratio} is not in \[0, 1\).*0.75'):
        random_masking(torch.zeros(1, 16), ratio)


def test_nothing_visible_is_refused():
    with pytest.raises(ValueError, match=r'mask_ratio=0\.9 leaves none of 9 patches visible'):
        random_masking(torch.zeros(1, 9), 0.9)


def test_take_picks_by_position():
    tokens = torch.tensor([[[1, 2], [3, 4], [5, 6]], [[7, 8], [9, 10], [11, 12]]])
    assert take(tokens, torch.tensor([[2, 0], [1, 1]])).tolist() == [[[5, 6], [1, 2]], [[9, 10], [9, 10]]]


@given(indices=st.lists(st.integers(0, 10**7), min_size=1, max_size=6), seed=st.integers(0, 10**4), pick=st.data())
def test_fixed_noise_of_an_image_is_independent_of_its_batch(indices, seed, pick):
    noise = fixed_noise(indices, 20, seed)
    assert noise.shape == (len(indices), 20) and noise.dtype == torch.float32
    assert noise.min() >= 0 and noise.max() < 1
    i = pick.draw(st.integers(0, len(indices) - 1))
    assert torch.equal(noise[i:i + 1], fixed_noise([indices[i]], 20, seed))


def test_fixed_noise_differs_between_images_and_seeds():
    noise = torch.cat([fixed_noise(list(range(300)), 8, seed) for seed in (0, 1)])
    assert len(noise.unique(dim=0)) == 600
    mask = random_masking(fixed_noise(list(range(4000)), 16), 0.75).mask
    assert (mask.float().mean(0) - 0.75).abs().max() < 0.03  # neighbouring numbers give unrelated masks


def test_fixed_noise_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    fixed_noise([1, 2], 8)
    assert torch.equal(torch.get_rng_state(), before)


def test_fixed_noise_never_changes():
    """Held-out losses are compared between runs and versions: these masks are as published as the numbers."""
    assert sorted(random_masking(fixed_noise([7], 16), 0.75).ids_keep[0].tolist()) == [1, 4, 6, 13]
