"""Pixels of patches and whole images at the size a network takes."""

import cv2
import numpy as np


def cut_patches(image_HW3: np.ndarray, boxes_T4: np.ndarray, size: int) -> np.ndarray:
    """Cut boxes out of an image and resize each to a square, ignoring its aspect ratio as the paper does.

    Args:
        image_HW3: RGB uint8 (H, W, 3).
        boxes_T4: integer boxes (x0, y0, x1, y1), half-open, inside the image.
        size: side of a patch, pixels.

    Returns:
        RGB uint8 (T, size, size, 3).

    Raises:
        ValueError: when a box is empty or leaves the image, or size is below 1.
    """
    height, width = image_HW3.shape[:2]
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    patches_T = np.empty((len(boxes_T4), size, size, 3), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(np.asarray(boxes_T4).tolist()):
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise ValueError(f"box {number} ({x0}, {y0}, {x1}, {y1}) is empty or outside the {width} x {height} image")
        _resize(image_HW3[y0:y1, x0:x1], size, patches_T[number])
    return patches_T


def whole_image(image_HW3: np.ndarray, size: int) -> np.ndarray:
    """The whole image as a network's input: short side resized to `size`, centre crop. RGB uint8 (size, size, 3).

    The square is cut first and resized then: the same pixels, without enlarging the ends of a long strip.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    height, width = image_HW3.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    whole = np.empty((size, size, 3), np.uint8)
    _resize(image_HW3[top : top + short, left : left + short], size, whole)
    return whole


def _resize(crop_HW3: np.ndarray, size: int, out: np.ndarray) -> None:
    """Area averaging along the axes that shrink, linear interpolation along those that grow."""
    height, width = crop_HW3.shape[:2]
    shrunk = (min(width, size), min(height, size))
    if shrunk != (width, height):
        crop_HW3 = cv2.resize(crop_HW3, shrunk, interpolation=cv2.INTER_AREA)
    out[:] = crop_HW3 if shrunk == (size, size) else cv2.resize(crop_HW3, (size, size), interpolation=cv2.INTER_LINEAR)
