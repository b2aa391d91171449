"""The compiled watershed against scikit-image's: the very same labels, on photographs, noise and plateaus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import find_objects
from skimage.segmentation import watershed

from vgse.patches import decode_image, grid_boxes
from vgse.patches.regions import _gradient_magnitude, _reduced_grey
from vgse.patches.watershed import flood, label_boxes


def reference(surface_HW: np.ndarray, markers_T2: np.ndarray, compactness: float) -> np.ndarray:
    markers_HW = np.zeros(surface_HW.shape, np.int32)
    markers_HW[tuple(markers_T2[::-1].T)] = np.arange(len(markers_T2), 0, -1)
    return watershed(surface_HW, markers_HW, compactness=compactness)


def middles(height: int, width: int, patches: int) -> np.ndarray:
    cells_T4 = grid_boxes(height, width, patches)
    return ((cells_T4[:, :2] + cells_T4[:, 2:]) // 2)[:, ::-1]


@settings(deadline=None, max_examples=200)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    patches=st.integers(1, 30),
    levels=st.sampled_from([1, 2, 4, 1 << 20]),
    compactness=st.sampled_from([0.0, 0.001, 0.04, 0.125, 1.0, 50.0]),
    seed=st.integers(0, 99),
)
def test_labels_are_scikit_images(
    height: int, width: int, patches: int, levels: int, compactness: float, seed: int
) -> None:
    """Few levels make plateaus and markers of equal height, where the order of equals decides."""
    rng = np.random.default_rng(seed)
    surface_HW = (rng.integers(0, levels, (height, width)) / levels).astype(np.float32)
    markers_T2 = middles(height, width, patches)
    if seed % 2:
        markers_T2 = np.stack([rng.integers(0, height, patches), rng.integers(0, width, patches)], axis=1)
    np.testing.assert_array_equal(
        flood(surface_HW, markers_T2, compactness), reference(surface_HW, markers_T2, compactness)
    )


@pytest.mark.parametrize("side", [64, 128])
def test_labels_are_scikit_images_on_photographs(shared: Path, side: int) -> None:
    for path in sorted((shared / "data" / "imagenet_samples").glob("*.JPEG"))[:: side // 12]:
        surface_HW = _gradient_magnitude(_reduced_grey(decode_image(path.read_bytes()), side))
        markers_T2 = middles(*surface_HW.shape, 9)
        labels_HW = flood(surface_HW, markers_T2, 0.01 * 256 / side)
        np.testing.assert_array_equal(labels_HW, reference(surface_HW, markers_T2, 0.01 * 256 / side))
        assert set(np.unique(labels_HW)) == set(range(1, 10))


def test_of_markers_in_one_place_the_first_counts() -> None:
    assert (flood(np.zeros((3, 4)), np.array([[1, 1], [1, 1]]), 0.1) == 1).all()


def test_label_boxes_are_those_of_find_objects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels_HW = rng.integers(0, 12, rng.integers(1, 9, 2)).astype(np.int32)
        boxes_T4 = label_boxes(labels_HW, 9)
        for box, found in zip(boxes_T4.tolist(), find_objects(np.where(labels_HW > 9, 0, labels_HW), 9), strict=True):
            slices = [0, 0, 0, 0] if found is None else [found[1].start, found[0].start, found[1].stop, found[0].stop]
            assert box == slices
