import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.models.masking import SAMPLERS, block_masking, fixed_noise, grid_masking, random_masking, take

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
    with pytest.raises(ValueError, match=rf'mask_ratio={ratio} must be in \[0, 1\).*0.75'):
        random_masking(torch.zeros(1, 16), ratio)


def test_nothing_visible_is_refused():
    with pytest.raises(ValueError, match=r'mask_ratio=0\.9 must .* leave one of 9 patches visible'):
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


# --- other samplers


def boxes_cover(mask: torch.Tensor) -> float:
    """Fraction of masked patches with at least one masked neighbour in both directions: high for blocks."""
    mask = mask.float()
    beside = torch.zeros_like(mask)
    beside[:, :, 1:] += mask[:, :, :-1]
    beside[:, :, :-1] += mask[:, :, 1:]
    below = torch.zeros_like(mask)
    below[:, 1:] += mask[:, :-1]
    below[:, :-1] += mask[:, 1:]
    return ((beside > 0) & (below > 0) & (mask > 0)).sum().item() / mask.sum().item()


@given(rows=st.integers(2, 9), cols=st.integers(2, 9), ratio=st.sampled_from([0.3, 0.5, 0.75]), seed=st.integers(0, 99))
def test_every_sampler_gives_a_mask_on_any_rectangle(rows, cols, ratio, seed):
    for name, sampler in SAMPLERS.items():
        ratio = 0.75 if name == 'grid' else ratio
        visible = (rows // 2) * (cols // 2) if name == 'grid' else int(rows * cols * (1 - ratio))
        ids_keep, ids_restore, mask = sampler(draw(3, rows * cols, seed), ratio, (rows, cols))
        assert mask.dtype == torch.bool and ids_keep.shape == (3, visible)
        assert (~mask).sum(1).tolist() == [visible] * 3 and not mask.gather(1, ids_keep).any()
        assert ids_restore.sort(1).values.tolist() == [list(range(rows * cols))] * 3
        assert torch.equal(ids_restore.gather(1, ids_keep), torch.arange(visible).expand(3, -1))


@pytest.mark.parametrize('ratio', [0.5, 0.75])
def test_blocks_are_blocks_and_images_differ(ratio):
    noise = draw(200, 196, 0)
    mask = block_masking(noise, ratio, (14, 14)).mask.view(-1, 14, 14)
    scattered = random_masking(noise, ratio).mask.view(-1, 14, 14)
    assert boxes_cover(mask) > 0.97 > 0.95 > boxes_cover(scattered)
    assert len(mask.flatten(1).unique(dim=0)) == 200
    assert (mask.float().mean(0) > 0.25 * ratio).all() and (mask.float().mean(0) < 1).all()  # nowhere never, nor always
    turned = block_masking(noise, ratio, (7, 28)).mask.view(-1, 7, 28)
    assert boxes_cover(turned) > 0.95


def test_first_block_by_hand():
    """A 4x4 grid, a quarter hidden: the centre is the lowest score, its neighbours' 0.5 are a middling square."""
    noise = torch.full((1, 16), 0.5)
    noise[0, 5] = 0.0  # row 1, column 1
    mask = block_masking(noise, 0.25, (4, 4), min_area=0.25).mask.view(4, 4)
    assert mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    noise[0, 7] = 1.0  # the largest height / width: 1 / 0.3, so 3.65 x 1.1 patches, and the fourth is still due
    mask = block_masking(noise, 0.25, (4, 4), min_area=0.25).mask.view(4, 4)
    assert mask.int().tolist() == [[0, 1, 0, 0]] * 4


def test_grid_by_hand():
    noise = torch.ones(2, 15)
    noise[0, 0] = noise[1, 6] = 0  # upper left; lower right of the first 2x2 of five columns
    mask = grid_masking(noise, 0.75, (3, 5)).mask.view(2, 3, 5)
    assert (~mask[0]).int().tolist() == [[1, 0, 1, 0, 0], [0] * 5, [0] * 5]
    assert (~mask[1]).int().tolist() == [[0] * 5, [0, 1, 0, 1, 0], [0] * 5]
    corners = grid_masking(draw(400, 36, 0), 0.75, (6, 6)).mask.view(-1, 6, 6)[:, :2, :2].flatten(1)
    assert ((~corners).float().mean(0) - 0.25).abs().max() < 0.08


@pytest.mark.parametrize('ratio, grid', [(0.5, (6, 6)), (0.75, (1, 36))])
def test_grid_that_cannot_be_is_refused(ratio, grid):
    with pytest.raises(ValueError, match=r'mask_ratio must be 0\.75, got .* got \d+x\d+'):
        grid_masking(torch.rand(1, 36), ratio, grid)


def test_take_gives_each_token_its_own_gradient():
    tokens, ids = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True), draw(2, 7, 0).argsort(1)[:, :4]
    assert torch.autograd.gradcheck(lambda tokens: take(tokens, ids), tokens)
    grad, = torch.autograd.grad(take(tokens, ids).sum(), tokens)
    taken = torch.zeros(2, 7).scatter(1, ids, 1.0)
    assert torch.equal(grad, taken[..., None].double().expand(-1, -1, 3))
