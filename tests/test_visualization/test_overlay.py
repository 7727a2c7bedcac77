"""Classes as colours over images."""

import numpy as np
from PIL import Image

from mae_mm.visualization.overlay import SIDE, fit, overlay, true_labels

PALETTE = np.array([[200, 0, 0], [0, 100, 0]], np.uint8)


def test_overlay_by_hand():
    image = np.full((1, 3, 3), 100, np.uint8)
    drawn = overlay(image, np.array([[0, 1, 255]]), PALETTE, 0.5)
    assert drawn.tolist() == [[[150, 50, 50], [50, 100, 50], [100, 100, 100]]]
    assert np.array_equal(overlay(image, np.array([[0, 1, 255]]), PALETTE, 0.0), image)


def test_images_fit_into_squares():
    wide = fit(np.zeros((50, 100, 3), np.uint8))
    assert wide.shape == (SIDE, SIDE, 3)
    rows, cols = (wide[..., 0] == 0).nonzero()
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (SIDE // 4, SIDE * 3 // 4 - 1, 0, SIDE - 1)


def test_truth_is_that_of_the_data_set_alone(tmp_path):
    class Dataset:
        img_suffix, seg_map_suffix = '_image.jpg', '_labels.png'
        data_prefix = dict(img_path=str(tmp_path / 'images'), seg_map_path=str(tmp_path / 'labels'))
        metainfo = dict(reduce_zero_label=True, label_map=None)

    for folder in ('images/a', 'labels/a'):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(np.array([[0, 1, 7, 255]], np.uint8)).save(tmp_path / 'labels/a/x_labels.png')
    assert true_labels(Dataset, str(tmp_path / 'images/a/x_image.jpg')).tolist() == [[255, 0, 6, 255]]
    assert true_labels(Dataset, str(tmp_path / 'elsewhere.jpg')) is None
