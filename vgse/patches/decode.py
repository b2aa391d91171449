"""Bytes to pixels, and pixels to the form in which a patch shard stores an image.

OpenCV decodes the plain cases (RGB or grey JPEG and PNG, RGB WebP); Pillow reads every header, decodes the rest, and is
the judge of files that look incomplete.
"""

from collections.abc import Callable

import cv2
import numpy as np
from PIL import ExifTags, Image

from vgse.patches.headers import ImageError, looks_complete, open_header

# Formats and Pillow modes for which OpenCV gives the same pixels as Pillow.
_PLAIN_MODES = {"JPEG": ("RGB", "L"), "MPO": ("RGB", "L"), "PNG": ("RGB", "L"), "WEBP": ("RGB",)}
_ORIENT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def decode_image(data: bytes, *, max_pixels: int = 178_956_970) -> np.ndarray:
    """Decode an encoded image of any common format; the content decides, never the file's name.

    Grey and palette images become RGB, 16-bit images keep their upper 8 bits, CMYK is converted, transparency is
    composited on white (cut-outs on the web hide arbitrary colours under it), EXIF orientation is applied, colour
    profiles are ignored, and of an animation the first frame is taken. A missing end is refused; damage in the middle
    of a JPEG that its decoder can conceal is not noticed.

    Args:
        data: the whole encoded file.
        max_pixels: limit on width x height as the header states it, checked before decoding (a decompression bomb is a
            few kilobytes that ask for gigabytes). Pillow refuses more than 178,956,970 in any case.

    Returns:
        RGB pixels, uint8, shape (H, W, 3), C-contiguous.

    Raises:
        ImageError: see its reasons.
    """
    image = open_header(data, max_pixels)
    complete = looks_complete(data, image.format)
    if _opencv_agrees(image) and complete:
        pixels = _opencv_decode(data)
        if pixels is not None and pixels.shape[:2] == (image.height, image.width):
            return _oriented(pixels, _orientation(image))
    return _pillow_decode(data, image, complete)


def decode_stored(data: bytes) -> np.ndarray:
    """Decode bytes that `cap_short_side` returned: RGB uint8 (H, W, 3), without the checks of `decode_image`.

    Raises:
        ImageError: `corrupt`, when the bytes do not decode.
    """
    pixels = _opencv_decode(data)
    if pixels is None:
        raise ImageError("corrupt", "the stored image does not decode")
    return pixels


def cap_short_side(data: bytes, image_HW3: np.ndarray, short_side: int, quality: int = 95) -> tuple[bytes, np.ndarray]:
    """The form in which an image is stored beside its boxes: small, and decoded by one plain OpenCV call.

    The bytes are kept as they are when OpenCV decodes them to the same pixels (JPEG, PNG or WebP, 8 bits, no alpha, no
    EXIF turn) and the short side is within the cap, or above it by at most a factor of two while re-encoding would not
    make them smaller. Everything else is resized (area averaging) and encoded as JPEG, or as PNG where the size
    stays and PNG is not larger (icons, flat drawings).

    Args:
        data: the encoded file.
        image_HW3: `decode_image(data)`.
        short_side: cap in pixels; images are never enlarged.
        quality: JPEG quality, 1..100.

    Raises:
        ImageError: `unsupported`, for a strip too long for its encoding.
        ValueError: when a number is out of range.

    Returns:
        The bytes to store and the (h, w, 3) RGB pixels they decode to (`decode_stored`), which boxes must refer to.
    """
    if short_side < 1 or not 1 <= quality <= 100:
        raise ValueError(f"short_side must be positive and quality in 1..100, got {short_side} and {quality}")
    short = min(image_HW3.shape[:2])
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if short <= short_side:
        if _is_plain(data, image_HW3):
            return data, image_HW3
        lossless = _encode(image_HW3, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])
        encoded = min(lossless, _encode(image_HW3, ".jpg", jpeg), key=len)
    else:
        encoded = _encode(_shrink(image_HW3, short_side), ".jpg", jpeg)
        if len(encoded) >= len(data) and short <= 2 * short_side and _is_plain(data, image_HW3):
            return data, image_HW3
    return encoded, decode_stored(encoded)


def _opencv_agrees(image: Image.Image) -> bool:
    if image.mode not in _PLAIN_MODES.get(image.format or "", ()) or "transparency" in image.info:
        return False
    # An MPO file is a JPEG with more pictures behind it (phones); both libraries take the first.
    return image.format in ("JPEG", "MPO") or not getattr(image, "is_animated", False)


def _is_plain(data: bytes, image_HW3: np.ndarray) -> bool:
    """Whether one OpenCV call gives these pixels: by the header, then by trying, for damaged files read differently."""
    image = open_header(data)
    if not _opencv_agrees(image) or _orientation(image) != 1:
        return False
    pixels = _opencv_decode(data)
    return pixels is not None and np.array_equal(pixels, image_HW3)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF is common and says nothing about the pixels.
        return 1
    return value if value in _ORIENT else 1


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(_ORIENT[orientation](pixels)) if orientation != 1 else pixels


def _opencv_decode(data: bytes) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _pillow_decode(data: bytes, image: Image.Image, complete: bool) -> np.ndarray:
    try:
        if not complete and image.format in ("JPEG", "MPO"):
            # Zero padding lets the decoder run on to a grey rest; without it Pillow meets the true end and says so.
            image = open_header(data.rstrip(b"\0"))
        image.load()
        return _oriented(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except Exception as error:
        cut = not complete or "truncated" in str(error).lower()
        raise ImageError("truncated" if cut else "corrupt", f"{image.format}: {error}") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a loaded Pillow image of any mode as RGB uint8 (H, W, 3)."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min(initial=0) < 0 or values.max(initial=0) > 65535:
            raise ImageError("unsupported", "32-bit integer pixels have no agreed range")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("F", "LAB"):
        raise ImageError("unsupported", f"pixels of mode {image.mode} have no agreed way to 8-bit RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _shrink(image_HW3: np.ndarray, short_side: int) -> np.ndarray:
    height, width = image_HW3.shape[:2]
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)


def _encode(image_HW3: np.ndarray, extension: str, options: list[int]) -> bytes:
    try:
        done, encoded = cv2.imencode(extension, cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done:  # JPEG ends at 65,500 pixels a side.
        raise ImageError("unsupported", f"an image of shape {image_HW3.shape} cannot be encoded as {extension}")
    return encoded.tobytes()
