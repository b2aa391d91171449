"""Drawing one image of the demo data set: a textured background, a painted object on it, and a camera.

Scenes are float32 RGB (N, N, 3) in 0..255 at N = 128, twice the usual size, and reduced at the end by area averaging,
which gives the soft edges of a photograph.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

_CANVAS = 128
_COLOURS = {"scarlet": (205, 28, 38), "lime": (150, 222, 32), "amber": (245, 165, 18), "blue": (36, 72, 205)}


def draw(colour: str, texture: str, shape: str, background: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """One image, RGB uint8 (size, size, 3): an object of a colour, texture and shape lying on a background."""
    scene = _BACKGROUNDS[background](rng)
    mask_HW, across_HW, along_HW = _object(shape, rng)
    surface = _surface(colour, texture, across_HW, along_HW, rng)
    light = rng.uniform(0, 2 * np.pi)
    shade = np.cos(light) * across_HW + np.sin(light) * along_HW
    rim = cv2.GaussianBlur(mask_HW, (0, 0), 3.5)
    surface *= ((1 + 0.22 * shade) * (0.62 + 0.38 * rim))[..., None]
    far = rng.uniform(2, 7)
    offset = np.array([[1, 0, far * np.cos(light)], [0, 1, far * np.sin(light)]])
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask_HW, offset, (_CANVAS, _CANVAS)), (0, 0), 4)
    scene *= (1 - rng.uniform(0.3, 0.6) * shadow)[..., None]
    scene += mask_HW[..., None] * (surface - scene)
    return _photograph(scene, light, rng, size)


def _noise(rng: np.random.Generator, across: float, down: float) -> np.ndarray:
    """Gaussian noise smoothed over the given standard deviations, rescaled to unit variance, (N, N) float32."""
    smooth = cv2.GaussianBlur(rng.standard_normal((_CANVAS, _CANVAS), np.float32), (0, 0), across, sigmaY=down)
    return (smooth - smooth.mean()) / smooth.std()


def _tint(values_HW: np.ndarray, rgb: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Brightness around one jittered colour, (N, N, 3) float32."""
    return values_HW[..., None] * (np.array(rgb) + rng.normal(0, 7, 3)).astype(np.float32)


def _grid(rng: np.random.Generator, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates turned by up to `turn` radians and shifted at random, each (N, N) float32."""
    y, x = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    angle = rng.uniform(-turn, turn)
    x0, y0 = rng.uniform(0, 40, 2)
    return x * np.cos(angle) + y * np.sin(angle) + x0, y * np.cos(angle) - x * np.sin(angle) + y0


def _grass(rng: np.random.Generator) -> np.ndarray:
    scene = _tint(1 + 0.22 * _noise(rng, 0.8, 5) + 0.12 * _noise(rng, 14, 14), (70, 104, 40), rng)
    for x, y, length, lean, bright in rng.uniform((0, 0, 6, -5, 0.5), (_CANVAS, _CANVAS + 10, 22, 5, 1.7), (200, 5)):
        blade = tuple(float(v) for v in np.array((78, 118, 42)) * bright)
        cv2.line(scene, (int(x), int(y)), (int(x + lean), int(y - length)), blade, 1, cv2.LINE_AA)
    return scene


def _brick(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid(rng, 0.08)
    height = rng.uniform(15, 21)
    row = np.floor(y / height)
    column_position = x / (2.2 * height) + 0.5 * (row % 2)
    column = np.floor(column_position)
    shades = rng.normal(1, 0.13, (64, 64)).astype(np.float32)[row.astype(int) % 64, column.astype(int) % 64]
    scene = _tint(shades + 0.09 * _noise(rng, 0.9, 0.9), (150, 78, 58), rng)
    gap = np.minimum(y / height - row, (column_position - column) * 2.2) < 0.14
    mortar = cv2.GaussianBlur(gap.astype(np.float32), (0, 0), 0.8)[..., None]
    return scene * (1 - mortar) + mortar * _tint(1 + 0.08 * _noise(rng, 0.8, 0.8), (176, 168, 156), rng)


def _water(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid(rng, 0.2)
    bent = y + 3.5 * _noise(rng, 13, 6) + 2 * np.sin(x / rng.uniform(9, 16))
    ripple = np.sin(bent * 2 * np.pi / rng.uniform(9, 15)) + 0.5 * np.sin(bent * 2 * np.pi / 5.3 + x / 7)
    scene = _tint(1 + 0.2 * ripple + 0.07 * _noise(rng, 2.5, 0.7), (62, 128, 146), rng)
    return scene + np.clip(ripple - 0.95, 0, 1)[..., None] * np.float32(190)


def _sand(rng: np.random.Generator) -> np.ndarray:
    x, y = _grid(rng, 0.7)
    dunes = np.sin((y + 5 * _noise(rng, 12, 12) + 0.2 * x) * 2 * np.pi / rng.uniform(22, 34))
    grain = 0.09 * _noise(rng, 0.6, 0.6) + 0.05 * _noise(rng, 1.6, 1.6)
    return _tint(1 + grain + 0.06 * dunes, (212, 186, 142), rng)


_BACKGROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "grass": _grass,
    "brick": _brick,
    "water": _water,
    "sand": _sand,
}


def _outline(shape: str) -> np.ndarray:
    """Corner points (P, 2) of a shape of about unit radius; the ring's outer edge for `ring`."""
    if shape == "square":
        return np.array([(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)])
    if shape == "cross":
        arm, end = 0.33, 0.98
        quarter = np.array([(arm, -arm), (end, -arm), (end, arm)])
        turns = [np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]]) for t in np.arange(4) * np.pi / 2]
        return np.concatenate([quarter @ turn.T for turn in turns])
    radii = np.where(np.arange(10) % 2, 0.46, 1.12) if shape == "star" else np.ones(60)
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    return radii[:, None] * np.stack([np.sin(angles), -np.cos(angles)], 1)


def _object(shape: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A placed shape: soft mask and the two coordinates of its own frame (about -1..1 inside), each (N, N) float32."""
    radius = rng.uniform(0.29, 0.41) * _CANVAS
    centre = _CANVAS / 2 + rng.uniform(-0.13, 0.13, 2) * _CANVAS
    angle, squeeze = rng.uniform(-0.45, 0.45), rng.uniform(0.86, 1)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ np.diag([1, squeeze])
    mask = np.zeros((_CANVAS, _CANVAS), np.float32)
    for scale, value in ((1.0, 1.0), (0.52, 0.0)) if shape == "ring" else ((1.0, 1.0),):
        points = (_outline(shape) * scale * radius) @ turn.T + centre
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], value, cv2.LINE_AA, 4)
    y, x = np.mgrid[0:_CANVAS, 0:_CANVAS].astype(np.float32)
    own = np.linalg.inv(turn * radius).astype(np.float32)
    across = own[0, 0] * (x - centre[0]) + own[0, 1] * (y - centre[1])
    along = own[1, 0] * (x - centre[0]) + own[1, 1] * (y - centre[1])
    return cv2.GaussianBlur(mask, (0, 0), 0.8), across.astype(np.float32), along.astype(np.float32)


def _surface(colour: str, texture: str, across: np.ndarray, along: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The object's paint, (N, N, 3) float32: its colour, with near-white stripes or spots."""
    paint = np.array(_COLOURS[colour]) * rng.uniform(0.85, 1.1) + rng.normal(0, 9, 3)
    light = np.array((240, 236, 226)) * rng.uniform(0.88, 1.04)
    phase = rng.uniform(0, 1, 2)
    pattern = np.zeros_like(across)
    if texture == "striped":
        wave = np.sin(2 * np.pi * (across * rng.uniform(1.9, 2.6) + phase[0]))
        pattern = np.clip(4 * (wave - 0.15) + 0.5, 0, 1)
    elif texture == "spotted":
        rows = rng.uniform(1.9, 2.5)
        u, v = across * rows + phase[0], along * rows + phase[1]
        u = u + 0.5 * (np.floor(v) % 2)
        pattern = np.clip(9 * (0.3 - np.hypot(u % 1 - 0.5, v % 1 - 0.5)) + 0.5, 0, 1)
    mixed = paint + pattern[..., None] * (light - paint)
    return (mixed * (1 + 0.04 * _noise(rng, 1.2, 1.2))[..., None]).astype(np.float32)


def _photograph(scene: np.ndarray, light: float, rng: np.random.Generator, size: int) -> np.ndarray:
    """Uneven light, vignette, white balance, blur and sensor noise; float (N, N, 3) to uint8 (size, size, 3)."""
    y, x = np.mgrid[-1 : 1 : _CANVAS * 1j, -1 : 1 : _CANVAS * 1j].astype(np.float32)
    exposure = rng.uniform(0.85, 1.12) * (1 + rng.uniform(0.05, 0.2) * (np.cos(light) * x + np.sin(light) * y))
    scene = scene * (exposure * (1 - 0.12 * (x * x + y * y)))[..., None] * rng.normal(1, 0.03, 3)
    scene = cv2.GaussianBlur(scene.astype(np.float32), (0, 0), rng.uniform(0.5, 1.3))
    small = cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(small + rng.normal(0, rng.uniform(2, 5), small.shape), 0, 255).astype(np.uint8)
