import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mae_mm.models.data_preprocessor import ImagePreprocessor, stretch


def test_pixels_by_hand():
    preprocessor = ImagePreprocessor(mean=[10, 20, 30], std=[1, 2, 4])
    imgs = torch.tensor([12, 16, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    out = preprocessor(dict(inputs=imgs))['inputs']
    assert out.dtype == torch.float32 and out.flatten().tolist() == [2, -2, 5]


def test_bgr_is_turned_before_it_is_normalised():
    preprocessor = ImagePreprocessor(mean=[10, 20, 30], std=[1, 2, 4], to_rgb=True)
    bgr = torch.tensor([50, 16, 12], dtype=torch.uint8).view(1, 3, 1, 1)
    assert preprocessor(dict(inputs=bgr))['inputs'].flatten().tolist() == [2, -2, 5]


def test_default_is_imagenet():
    out = ImagePreprocessor()(dict(inputs=torch.full((1, 3, 2, 2), 255.0)))['inputs']
    # (1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225
    assert out[0, :, 0, 0].tolist() == pytest.approx([2.2489, 2.4286, 2.64], abs=1e-4)


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_one_number_serves_all_channels(channels):
    imgs = torch.randint(0, 256, (2, channels, 4, 6), dtype=torch.uint8)
    out = ImagePreprocessor([100], [50])(dict(inputs=imgs))['inputs']
    torch.testing.assert_close(out, imgs.float() / 50 - 2)


def test_five_channels_have_their_own_numbers():
    out = ImagePreprocessor([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])(dict(inputs=torch.full((1, 5, 1, 1), 4)))['inputs']
    assert out.flatten().tolist() == pytest.approx([4, 3 / 2, 2 / 3, 1 / 4, 0])


def test_list_and_batch_give_the_same():
    imgs = torch.randint(0, 256, (3, 3, 4, 6), dtype=torch.uint8)
    preprocessor = ImagePreprocessor()
    assert torch.equal(preprocessor(dict(inputs=list(imgs)))['inputs'], preprocessor(dict(inputs=imgs))['inputs'])


def test_the_rest_of_the_batch_is_kept():
    batch = dict(inputs=torch.zeros(2, 3, 4, 4), sample_idx=torch.tensor([4, 7]), img_path=['a.jpg', 'b.jpg'])
    out = ImagePreprocessor()(batch, training=True)
    assert out['sample_idx'].tolist() == [4, 7] and out['img_path'] == ['a.jpg', 'b.jpg']
    assert set(out) == {*batch, 'valid'}  # floats may lack data
    assert (batch['inputs'] == 0).all()  # the caller's images are not written to


@given(seed=st.integers(0, 99), channels=st.integers(1, 4), mean=st.floats(0, 255), std=st.floats(1, 255))
def test_denormalize_inverts(seed, channels, mean, std):
    imgs = torch.randint(0, 256, (1, channels, 3, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    preprocessor = ImagePreprocessor([mean] * channels, [std] * channels)
    assert torch.equal(preprocessor.denormalize(preprocessor(dict(inputs=imgs))['inputs']), imgs)


def test_denormalize_stays_within_a_byte():
    out = ImagePreprocessor().denormalize(torch.tensor([-1e3, 0.0, 1e3]).view(1, 1, 1, 3).expand(1, 3, 1, 3))
    assert out.dtype == torch.uint8
    assert out[0, 0, 0].tolist() == [0, 124, 255]  # 123.675 is rounded, not cut


def test_numbers_are_not_in_the_checkpoint():
    preprocessor = ImagePreprocessor()
    assert not preprocessor.state_dict()
    assert preprocessor.to('meta').mean.device.type == 'meta'  # but move with the model


@pytest.mark.parametrize('channels', [1, 4])
def test_wrong_channel_count_is_refused(channels):
    with pytest.raises(ValueError, match=f'images have {channels} channels .* mean and std of 3; give one number'):
        ImagePreprocessor()(dict(inputs=torch.zeros(1, channels, 8, 8)))


def test_pixels_without_data_are_the_mean():
    imgs = torch.tensor([1.0, torch.nan, torch.nan, 4.0]).view(1, 1, 1, 4)
    out = ImagePreprocessor([2], [2])(dict(inputs=imgs))
    assert out['inputs'].flatten().tolist() == [-0.5, 0, 0, 1]
    assert out['valid'].flatten().tolist() == [True, False, False, True]
    assert set(ImagePreprocessor()(dict(inputs=torch.zeros(1, 3, 2, 2, dtype=torch.uint8)))) == {'inputs'}


def test_clip_by_channel():
    imgs = torch.tensor([0, 50, 60000, 7]).to(torch.uint16).view(1, 2, 1, 2)
    out = ImagePreprocessor([0], [1], clip=([10, 20], [40, 1000]))(dict(inputs=imgs))['inputs']
    assert out.flatten().tolist() == [10, 40, 1000, 20]
    for clip in (([1, 2], [3, 2]), [[1, 2]]):
        with pytest.raises(ValueError, match=r'clip=.* must be two lists'):
            ImagePreprocessor(clip=clip)
    with pytest.raises(ValueError, match='images have 2 channels but data_preprocessor has clip of 3'):
        ImagePreprocessor([0], [1], clip=([1, 2, 3], [4, 5, 6]))(dict(inputs=imgs))


def test_each_image_by_itself():
    imgs = torch.randn(2, 3, 8, 8) * torch.tensor([1, 50, 3000]).view(3, 1, 1) + 400
    out = ImagePreprocessor(per_image=True)(dict(inputs=imgs))['inputs']
    torch.testing.assert_close(out.mean((2, 3)), torch.zeros(2, 3), rtol=0, atol=1e-4)
    torch.testing.assert_close(out.std((2, 3), correction=0), torch.ones(2, 3))
    missing = imgs.clone()
    missing[:, :, :4] = torch.nan
    half = ImagePreprocessor(per_image=True)(dict(inputs=missing))['inputs']
    assert not half[:, :, :4].any()
    torch.testing.assert_close(half[:, :, 4:].std((2, 3), correction=0), torch.ones(2, 3))
    assert not ImagePreprocessor(per_image=True)(dict(inputs=torch.full((1, 3, 4, 4), 9.0)))['inputs'].any()


def test_pictures_of_other_pixels_are_stretched_by_percentiles():
    """Of 0 … 100 the 2nd percentile, 2, becomes black, the 98th white; NaN is black, and does not count."""
    imgs = torch.stack([torch.arange(101.0), 50 * torch.arange(101.0) - 7]).view(1, 2, 1, 101)
    expected = ((torch.arange(101.0) - 2) / 96 * 255).clamp(0, 255).round().to(torch.uint8)
    for one in stretch(imgs)[0, :, 0]:
        assert (one.int() - expected.int()).abs().max() <= 1
    assert torch.equal(ImagePreprocessor([0], [1]).denormalize(imgs, torch.uint16), stretch(imgs))
    assert torch.equal(ImagePreprocessor(per_image=True).denormalize(imgs), stretch(imgs))
    assert torch.equal(stretch(imgs + 48, imgs)[0, :, 0, 50], torch.tensor([255, 130], dtype=torch.uint8))
    missing = torch.cat([imgs, torch.full((1, 2, 1, 50), torch.nan)], dim=3)
    assert torch.equal(stretch(missing), torch.cat([stretch(imgs), torch.zeros(1, 2, 1, 50).byte()], dim=3))
    assert not stretch(torch.full((1, 1, 4, 4), 7.0)).any()
    assert stretch(torch.tensor([0, 60000]).to(torch.uint16).view(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_lists_are_stacked_before_they_are_moved(monkeypatch):
    """GPUs do not join uint16 tensors."""
    moved = []
    monkeypatch.setattr(ImagePreprocessor, 'cast_data', lambda self, data: moved.append(data['inputs']) or data)
    imgs = [torch.full((1, 2, 2), value).to(torch.uint16) for value in (3, 60000)]
    out = ImagePreprocessor([0], [1])(dict(inputs=imgs))['inputs']
    assert moved[0].shape == (2, 1, 2, 2) and out.amax((1, 2, 3)).tolist() == [3, 60000]


def test_16_bit_bgr_is_flipped():
    imgs = torch.tensor([300, 200, 100]).to(torch.uint16).view(1, 3, 1, 1)
    assert ImagePreprocessor([0], [1], to_rgb=True)(dict(inputs=imgs))['inputs'].flatten().tolist() == [100, 200, 300]
