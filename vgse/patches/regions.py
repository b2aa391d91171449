"""Where to look: an image to a fixed number of patch boxes.

Boxes are int32 rows (x0, y0, x1, y1) in pixels of the given image, half-open, inside it, and at least 1 x 1.
"""

import math
from typing import Literal

import cv2
import numpy as np

from vgse.patches.watershed import flood, label_boxes

# The compactness is stated at this short side; see `watershed_boxes`.
_REFERENCE_SIDE = 256
# Beyond this aspect ratio the reduced image is squeezed, so that a 64 x 100000 strip does not cost a second.
_MAX_ASPECT = 8
# A marker on a strong edge can keep a segment of a few pixels; a crop of less than this part of the short side shows
# nothing, so its box is grown.
_MIN_PART = 1 / 8


def propose_boxes(
    image_HW3: np.ndarray,
    *,
    method: Literal["watershed", "grid"] = "watershed",
    patches: int = 9,
    side: int = 64,
    compactness: float = 0.01,
) -> np.ndarray:
    """Boxes (T, 4) by the named method; `side` and `compactness` belong to the watershed only.

    Raises:
        ValueError: on an unknown method or a number out of range.
    """
    if method == "watershed":
        return watershed_boxes(image_HW3, patches, side=side, compactness=compactness)
    if method == "grid":
        return grid_boxes(image_HW3.shape[0], image_HW3.shape[1], patches)
    raise ValueError(f"unknown patch method {method!r}, choose 'watershed' or 'grid'")


def watershed_boxes(
    image_HW3: np.ndarray, patches: int = 9, *, side: int = 64, compactness: float = 0.01
) -> np.ndarray:
    """Bounding boxes of the segments of a compact watershed (VGSE, section 3; Neubert and Protzel, ICPR 2014).

    The watershed floods the gradient magnitude of the grey image from one marker in the middle of each grid cell. It
    runs on a copy whose short side is reduced to `side`; smaller images are not enlarged. A flood's priority is
    gradient + compactness x distance in pixels, and a distance in a reduced image is shorter by the factor of
    reduction, so the compactness is scaled by 256 / (short side of the segmented image): the setting means the same
    trade at every size, also for images that are small to begin with.

    One marker gives one segment, so there are never more than T. Where an image has fewer pixels than markers, or
    markers fall together, the missing boxes are those of the grid cells of the markers that were lost. A box
    narrower than an eighth of the short side is grown to that about its centre. Deterministic.

    Args:
        image_HW3: RGB uint8 (H, W, 3).
        patches: T, any positive number.
        side: short side of the segmented copy, pixels.
        compactness: at short side 256, for grey values in 0..1; 0.01 or more keeps boxes faithful at small sides.

    Returns:
        Exactly T boxes, int32 (T, 4), in the order of the grid cells.

    Raises:
        ValueError: on patches or side below 1, or a negative or non-finite compactness.
    """
    if side < 1 or not (math.isfinite(compactness) and compactness >= 0):
        raise ValueError(f"side must be at least 1 and compactness at least 0, got {side} and {compactness}")
    height, width = image_HW3.shape[:2]
    reduced_HW = _reduced_grey(image_HW3, side)
    rows, columns = reduced_HW.shape
    cells_T4 = grid_boxes(rows, columns, patches)
    middles_T2 = (cells_T4[:, :2] + cells_T4[:, 2:]) // 2
    labels_HW = flood(
        _gradient_magnitude(reduced_HW), middles_T2[:, ::-1], compactness * _REFERENCE_SIDE / min(rows, columns)
    )
    found_T4 = label_boxes(labels_HW, patches)
    boxes_T4 = np.where(found_T4[:, 3:] > 0, found_T4, cells_T4).astype(np.float64)
    boxes_T4 *= np.array([width / columns, height / rows] * 2)
    boxes_T4[:, :2] = np.floor(boxes_T4[:, :2] + 1e-6)
    boxes_T4[:, 2:] = np.ceil(boxes_T4[:, 2:] - 1e-6)
    return _at_least(boxes_T4.astype(np.int32), max(1, int(min(height, width) * _MIN_PART)), height, width)


def grid_boxes(height: int, width: int, patches: int = 9) -> np.ndarray:
    """A grid of exactly T boxes (T, 4), int32, row by row, as near square in rows x columns as T allows.

    The longer direction of the image has the more cells; where T is no product, the last row (column, in portrait
    images) shares its length among the boxes left. The cells tile the image, except that in an image with fewer pixels
    than cells they overlap rather than vanish.

    Raises:
        ValueError: when an argument is below 1.
    """
    if min(height, width, patches) < 1:
        raise ValueError(f"height, width and patches must be at least 1, got {height}, {width}, {patches}")
    if height > width:
        return grid_boxes(width, height, patches)[:, [1, 0, 3, 2]]
    rows = math.isqrt(patches)
    columns = -(-patches // rows)
    rows = -(-patches // columns)
    boxes = []
    for row in range(rows):
        cells = columns if row < rows - 1 else patches - columns * (rows - 1)
        top, bottom = _edges(row, rows, height)
        for column in range(cells):
            left, right = _edges(column, cells, width)
            boxes.append((left, top, right, bottom))
    return np.array(boxes, np.int32)


def _edges(index: int, parts: int, length: int) -> tuple[int, int]:
    start = index * length // parts
    return start, max(start + 1, (index + 1) * length // parts)


def _reduced_grey(image_HW3: np.ndarray, side: int) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    scale = min(1.0, side / min(height, width))
    rows, columns = (max(1, min(round(length * scale), _MAX_ASPECT * side)) for length in (height, width))
    if (rows, columns) != (height, width):
        image_HW3 = cv2.resize(image_HW3, (columns, rows), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)


def _gradient_magnitude(grey_HW: np.ndarray) -> np.ndarray:
    """Sobel magnitude of grey values in 0..1, normalised as skimage.filters.sobel does. Float32 (H, W).

    In whole numbers up to the root, which every machine rounds alike: the last digit of OpenCV's magnitude depends on
    where in memory its arguments lie, and with it which of two equally cheap pixels is flooded first.
    """
    across, down = (
        cv2.Sobel(grey_HW, cv2.CV_16S, *order, borderType=cv2.BORDER_REFLECT).astype(np.int32)
        for order in ((1, 0), (0, 1))
    )
    squared_HW = (across * across + down * down).astype(np.float32)  # below 2 ** 24, so exact
    return np.sqrt(squared_HW) * np.float32(1 / (4 * 255 * math.sqrt(2)))


def _at_least(boxes_T4: np.ndarray, least: int, height: int, width: int) -> np.ndarray:
    """Grow boxes to `least` pixels a side about their centres, shifted to stay inside the image."""
    for low, length in ((0, width), (1, height)):
        start, stop = boxes_T4[:, low], boxes_T4[:, low + 2]
        missing = np.maximum(0, least - (stop - start))
        moved = np.clip(start - missing // 2, 0, length - (stop - start + missing))
        boxes_T4[:, low + 2] = moved + (stop - start) + missing
        boxes_T4[:, low] = moved
    return boxes_T4
