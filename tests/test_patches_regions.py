"""Boxes and crops: invariants over any image size, faithfulness of the reduced watershed on photographs."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import sobel

from vgse.patches import cut_patches, decode_image, grid_boxes, propose_boxes, watershed_boxes, whole_image
from vgse.patches.regions import _gradient_magnitude

SAMPLES = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_samples"

sizes = st.one_of(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 150), st.integers(1, 150)),
    st.sampled_from([(1, 1), (1, 3000), (3000, 1), (2, 1500), (40, 900), (900, 40), (32, 32), (200, 300)]),
)


def check_boxes(boxes_T4: np.ndarray, patches: int, height: int, width: int) -> None:
    assert boxes_T4.shape == (patches, 4)
    assert boxes_T4.dtype == np.int32
    assert (boxes_T4[:, :2] >= 0).all()
    assert (boxes_T4[:, 2:] > boxes_T4[:, :2]).all()
    assert (boxes_T4[:, 2:] <= [width, height]).all()


def iou(one_T4: np.ndarray, other_T4: np.ndarray) -> np.ndarray:
    """(T, T) intersection over union of every pair."""
    low = np.maximum(one_T4[:, None, :2], other_T4[None, :, :2])
    high = np.minimum(one_T4[:, None, 2:], other_T4[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area_one, area_other = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (one_T4, other_T4))
    return shared / (area_one[:, None] + area_other[None] - shared)


@settings(deadline=None, max_examples=120)
@given(size=sizes, patches=st.integers(1, 30), side=st.integers(1, 80), seed=st.integers(0, 5))
def test_watershed_boxes_are_always_t_boxes_inside_the_image(
    size: tuple[int, int], patches: int, side: int, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    boxes = watershed_boxes(image, patches, side=side)
    check_boxes(boxes, patches, *size)
    assert (boxes[:, 2:] - boxes[:, :2] >= max(1, min(size) // 8)).all()
    assert np.array_equal(boxes, watershed_boxes(image.copy(), patches, side=side))


@settings(deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), patches=st.integers(1, 120))
def test_grid_boxes_are_t_boxes_that_cover_the_image(height: int, width: int, patches: int) -> None:
    boxes = grid_boxes(height, width, patches)
    check_boxes(boxes, patches, height, width)
    covered = np.zeros((height, width), int)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] += 1
    assert covered.min() >= 1
    if min(height, width) >= patches:
        assert covered.max() == 1


def test_the_papers_nine_are_three_by_three() -> None:
    boxes = grid_boxes(90, 60, 9)
    assert sorted(set((boxes[:, 2] - boxes[:, 0]).tolist())) == [20]
    assert sorted(set((boxes[:, 3] - boxes[:, 1]).tolist())) == [30]
    assert grid_boxes(30, 90, 2).tolist() == [[0, 0, 45, 30], [45, 0, 90, 30]]
    assert grid_boxes(90, 30, 2).tolist() == [[0, 0, 30, 45], [0, 45, 30, 90]]
    assert grid_boxes(10, 60, 5)[-1].tolist() == [30, 5, 60, 10]


def test_boxes_follow_the_contours_of_the_image() -> None:
    """Two flat halves: the boundary of the segments must move from the grid line to the edge."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[:, 80:] = 255
    boxes = watershed_boxes(image, 2, side=128, compactness=0.001)
    assert abs(int(boxes[0, 2]) - 80) <= 2
    assert abs(int(boxes[1, 0]) - 80) <= 2
    assert watershed_boxes(image, 2, side=128, compactness=1e6)[0, 2] == pytest.approx(64, abs=1)


def test_the_gradient_is_skimages_sobel() -> None:
    grey = np.random.default_rng(1).integers(0, 256, (31, 47), dtype=np.uint8)
    np.testing.assert_allclose(_gradient_magnitude(grey), sobel(grey / 255.0), atol=1e-6)


def test_the_gradient_is_the_same_wherever_the_image_lies_in_memory() -> None:
    grey_HW = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8), (0, 0), 3)
    found, kept = set(), []
    for offset in range(64):
        memory = np.empty(grey_HW.size + 64, np.uint8)
        # So that results, too, lie elsewhere every time.
        kept += [np.empty(offset), np.empty(1000 + offset), np.empty(4097 * offset)]
        there_HW = memory[offset : offset + grey_HW.size].reshape(grey_HW.shape)
        there_HW[:] = grey_HW
        found.add(_gradient_magnitude(there_HW).tobytes())
    assert len(found) == 1


def test_reduced_boxes_are_faithful_on_photographs() -> None:
    if not SAMPLES.is_dir():
        pytest.skip("shared/data/imagenet_samples is not beside the checkout")
    faithful, unscaled = [], []
    for path in sorted(SAMPLES.glob("*.JPEG"))[::10]:
        image = decode_image(path.read_bytes())
        scale = 256 / min(image.shape[:2])
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        full = watershed_boxes(image, side=256)
        faithful.append(iou(watershed_boxes(image, side=64), full).max(1).mean())
        unscaled.append(iou(watershed_boxes(image, side=64, compactness=0.01 / 4), full).max(1).mean())
    assert np.mean(faithful) >= 0.9
    # The scaling by 256 / side is what keeps them so.
    assert np.mean(unscaled) < np.mean(faithful) - 0.05


def test_propose_boxes_chooses_the_method() -> None:
    image = np.random.default_rng(2).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    assert np.array_equal(propose_boxes(image, method="grid", patches=4), grid_boxes(50, 70, 4))
    assert np.array_equal(propose_boxes(image, patches=4, side=32), watershed_boxes(image, 4, side=32))
    with pytest.raises(ValueError, match="selective"):
        propose_boxes(image, method="selective")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"patches": 0}, {"side": 0}, {"compactness": -1.0}, {"compactness": float("nan")}])
def test_wrong_numbers_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match="at least"):
        watershed_boxes(np.zeros((8, 8, 3), np.uint8), **wrong)


def test_patches_show_what_their_boxes_enclose() -> None:
    image = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    boxes = np.array([[0, 0, 60, 40], [10, 5, 18, 13], [59, 39, 60, 40], [0, 0, 4, 40]], np.int32)
    patches = cut_patches(image, boxes, 8)
    assert patches.shape == (4, 8, 8, 3)
    assert np.array_equal(patches[1], image[5:13, 10:18])
    assert (patches[2] == image[39, 59]).all()
    blocks = image[:, :56].reshape(8, 5, 8, 7, 3).astype(float).mean((1, 3))
    np.testing.assert_allclose(cut_patches(image, np.array([[0, 0, 56, 40]]), 8)[0], blocks, atol=0.51)


@pytest.mark.parametrize("box", [[0, 0, 61, 40], [-1, 0, 5, 5], [5, 5, 5, 9]])
def test_boxes_outside_the_image_are_refused(box: list[int]) -> None:
    with pytest.raises(ValueError, match="box 0"):
        cut_patches(np.zeros((40, 60, 3), np.uint8), np.array([box]), 8)


@settings(deadline=None, max_examples=40)
@given(size=sizes, target=st.integers(1, 64))
def test_whole_image_is_square_at_any_aspect(size: tuple[int, int], target: int) -> None:
    assert whole_image(np.full((*size, 3), 7, np.uint8), target).tolist() == np.full((target, target, 3), 7).tolist()


def test_whole_image_is_the_centre() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (whole_image(image, 20) == 200).all()
