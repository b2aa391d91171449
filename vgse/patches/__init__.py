"""Patches: encoded bytes to pixels (decode), pixels to boxes (regions), boxes to network inputs (crop),
their variations in training (augment).

NumPy, OpenCV, Pillow and compiled loops. Nothing here sets OpenCV's thread count: workers call
`cv2.setNumThreads(1)` themselves.
"""

from vgse.patches.augment import Views, draw_views, move_boxes, recolour
from vgse.patches.crop import cut_patches, whole_image
from vgse.patches.decode import Decoded, ImageError, cap_short_side, decode, decode_image, decode_stored
from vgse.patches.headers import REASONS
from vgse.patches.regions import grid_boxes, propose_boxes, watershed_boxes

__all__ = [
    "REASONS",
    "Decoded",
    "ImageError",
    "Views",
    "cap_short_side",
    "cut_patches",
    "decode",
    "decode_image",
    "decode_stored",
    "draw_views",
    "grid_boxes",
    "move_boxes",
    "propose_boxes",
    "recolour",
    "watershed_boxes",
    "whole_image",
]
