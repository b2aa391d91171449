"""Augmentation: decided by its generator alone, inside the image, and the arithmetic it says."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vgse.patches import cut_patches, decode_image, draw_views, grid_boxes, move_boxes, recolour

LUMA = np.array([0.299, 0.587, 0.114])


def views(seed: int = 0, patches: int = 9, strength: float = 1.0):
    return draw_views(np.random.default_rng(seed), patches, strength)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_boxes_stay_inside_and_near(seed, height, width, strength):
    random = np.random.default_rng(seed)
    x0, y0 = random.integers(0, width, 9), random.integers(0, height, 9)
    boxes = np.stack([x0, y0, random.integers(x0 + 1, width + 1), random.integers(y0 + 1, height + 1)], axis=1)
    moved = move_boxes(boxes, views(seed, 9, strength), height, width)
    assert moved.dtype == np.int32
    assert (moved[:, :2] >= 0).all()
    assert (moved[:, :2] < moved[:, 2:]).all()
    assert (moved[:, 2:] <= [width, height]).all()
    sides, before = moved[:, 2:] - moved[:, :2], boxes[:, 2:] - boxes[:, :2]
    assert (abs(sides - before) <= 0.2 * before + 1).all()
    centre = (moved[:, :2] + moved[:, 2:] - boxes[:, :2] - boxes[:, 2:]) / 2
    assert (abs(centre) <= 0.2 * before + 1).all()


def test_strength_zero_only_mirrors():
    none = views(strength=0)
    boxes = grid_boxes(90, 120, 9)
    np.testing.assert_array_equal(move_boxes(boxes, none, 90, 120), boxes)
    pixels = np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3)).astype(np.uint8)
    seen = pixels.copy()
    recolour(seen, none)
    assert 0 < none.flip_T.sum() < 9
    for number, mirrored in enumerate(none.flip_T):
        np.testing.assert_array_equal(seen[number], pixels[number][:, ::-1] if mirrored else pixels[number])


def test_recolouring_is_saturation_then_contrast_then_brightness():
    pixels = np.random.default_rng(1).integers(0, 256, (9, 12, 10, 3)).astype(np.uint8)
    drawn = views(3)
    seen = pixels.copy()
    recolour(seen, drawn)
    for number in range(9):
        x = pixels[number].astype(float)
        x = x[:, ::-1] if drawn.flip_T[number] else x
        x = drawn.saturation_T[number] * x + (1 - drawn.saturation_T[number]) * (x @ LUMA)[..., None]
        x = drawn.contrast_T[number] * x + (1 - drawn.contrast_T[number]) * (x @ LUMA).mean()
        x = np.clip(drawn.brightness_T[number] * x, 0, 255)
        assert abs(seen[number] - x).max() <= 1


def test_the_same_generator_draws_the_same_and_another_does_not():
    for name, value in vars(views(7)).items():
        np.testing.assert_array_equal(value, getattr(views(7), name))
        assert not np.array_equal(value, getattr(views(8), name))


def test_a_strength_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"strength must lie in 0\.\.1, not 1\.5"):
        views(strength=1.5)


def test_real_photographs_stay_recognisable_and_cost_little(shared):
    paths = sorted((shared / "data" / "imagenet_samples").rglob("*.JPEG"))[:8]
    if not paths:
        pytest.skip("no photographs in ../shared/data/imagenet_samples")
    correlations, spent = [], 0.0
    for number, path in enumerate(paths):
        image = decode_image(path.read_bytes(), max_pixels=10**8)
        boxes = grid_boxes(*image.shape[:2], 9)
        still = replace(views(number, 9, 0.5), flip_T=np.zeros(9, bool))
        plain = cut_patches(image, boxes, 64)
        seen = cut_patches(image, move_boxes(boxes, still, *image.shape[:2]), 224)
        begun = time.perf_counter()
        recolour(seen, still)
        spent += time.perf_counter() - begun
        small = cut_patches(image, move_boxes(boxes, still, *image.shape[:2]), 64)
        recolour(small, still)
        assert not np.array_equal(small, plain)
        correlations += [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(small, plain, strict=True)]
    assert np.median(correlations) > 0.6
    # Cutting 9 patches of 224 x 224 takes about 3 ms; a generous bound for a busy machine.
    assert spent / (9 * len(paths)) < 5e-3
