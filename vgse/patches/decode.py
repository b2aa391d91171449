"""Bytes to pixels, and pixels to the form in which a patch shard stores an image.

OpenCV decodes the plain cases (RGB or grey JPEG and PNG, RGB WebP); Pillow reads every header, decodes the rest, and is
the judge of files that look incomplete.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import ExifTags, Image

from vgse.patches.headers import ImageError, looks_complete, open_header, png_is_damaged

# Formats and Pillow modes for which OpenCV gives the same pixels as Pillow.
_PLAIN_MODES = {"JPEG": ("RGB", "L"), "MPO": ("RGB", "L"), "PNG": ("RGB", "L"), "WEBP": ("RGB",)}
# What Pillow refuses as a decompression bomb by itself.
MAX_PIXELS = 178_956_970
_LONGEST_JPEG = 65_500
# Without the bit for colour, which OpenCV takes for BGR.
_REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
_ORIENT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True)
class Decoded:
    """An image's pixels and what is known of the file they come from.

    `pixels_HW3` is RGB uint8, C-contiguous. `short_side` is that of the file, in pixels, before any reduction. `plain`
    says that `decode_stored` gives these very pixels, so that the file may be stored as it is.
    """

    pixels_HW3: np.ndarray
    short_side: int
    plain: bool


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS, short_side: int | None = None) -> np.ndarray:
    """The pixels of `decode`: RGB uint8 (H, W, 3)."""
    return decode(data, max_pixels=max_pixels, short_side=short_side).pixels_HW3


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS, short_side: int | None = None) -> Decoded:
    """Decode an encoded image of any common format; the content decides, never the file's name.

    Grey and palette images become RGB, 16-bit images keep their upper 8 bits, CMYK is converted, transparency is
    composited on white (cut-outs on the web hide arbitrary colours under it), EXIF orientation is applied, colour
    profiles are ignored, and of an animation the first frame is taken. A missing end is refused, and so is a PNG whose
    checksums do not match; damage in the middle of a JPEG that its decoder can conceal is not noticed.

    Args:
        data: the whole encoded file.
        max_pixels: limit on width x height as the header states it, checked before decoding (a decompression bomb is a
            few kilobytes that ask for gigabytes). Pillow refuses more than 178,956,970 in any case.
        short_side: what is needed of the image. A JPEG whose short side is 2, 4 or 8 times that or more is decoded at
            a half, a quarter or an eighth (rounded up), in about half the time: the decoder makes averages over squares
            of the full image from its frequencies (within 0.5 grey levels of an area average; where a side does not
            divide, the last square reaches over the edge). Other formats are decoded in full.

    Raises:
        ImageError: see its reasons.
    """
    image = open_header(data, max_pixels)
    complete = looks_complete(data, image.format)
    if complete and image.format == "PNG" and png_is_damaged(data):
        raise ImageError("corrupt", "PNG: the checksum of its data does not match")
    short, reduction = min(image.size), _reduction(image, short_side)
    if complete and _opencv_agrees(image):
        pixels = _opencv_decode(data, reduction)
        if pixels is not None and pixels.shape[:2] == (-(-image.height // reduction), -(-image.width // reduction)):
            turn = _orientation(image)
            return Decoded(_oriented(pixels, turn), short, plain=turn == 1 and reduction == 1)
    return Decoded(_pillow_decode(data, image, complete, reduction), short, plain=False)


def decode_stored(data: bytes) -> np.ndarray:
    """Decode bytes that `cap_short_side` returned: RGB uint8 (H, W, 3), without the checks of `decode_image`.

    Raises:
        ImageError: `corrupt`, when the bytes do not decode.
    """
    pixels = _opencv_decode(data)
    if pixels is None:
        raise ImageError("corrupt", "the stored image does not decode")
    return pixels


def cap_short_side(data: bytes, image: Decoded, short_side: int, quality: int = 95) -> tuple[bytes, np.ndarray]:
    """The form in which an image is stored beside its boxes: small, and decoded by one plain OpenCV call.

    The bytes are kept as they are when OpenCV decodes them to the same pixels (JPEG, PNG or WebP, 8 bits, no alpha, no
    EXIF turn) and the short side is within the cap, or above it by less than a factor of two while re-encoding would
    not make them smaller. Everything else is resized (area averaging) and encoded as JPEG, or as PNG where the size
    stays and PNG is not larger (icons, flat drawings).

    Args:
        data: the encoded file.
        image: `decode(data, short_side=short_side)`, or without a short side.
        short_side: cap in pixels; images are never enlarged.
        quality: JPEG quality, 1..100.

    Raises:
        ImageError: `unsupported`, for a strip too long for its encoding.
        ValueError: when a number is out of range.

    Returns:
        The bytes to store and the pixels (h, w, 3) that were encoded, or decoded where the bytes are kept. Boxes
        proposed on them fit what `decode_stored` gives, which has their size and differs by the loss of the JPEG.
    """
    if short_side < 1 or not 1 <= quality <= 100:
        raise ValueError(f"short_side must be positive and quality in 1..100, got {short_side} and {quality}")
    pixels_HW3, jpeg = image.pixels_HW3, [cv2.IMWRITE_JPEG_QUALITY, quality]
    if image.short_side <= short_side:
        if image.plain:
            return data, pixels_HW3
        lossless = _encode(pixels_HW3, ".png", [cv2.IMWRITE_PNG_COMPRESSION, 6])
        if max(pixels_HW3.shape) > _LONGEST_JPEG:
            return lossless, pixels_HW3
        return min(lossless, _encode(pixels_HW3, ".jpg", jpeg), key=len), pixels_HW3
    capped_HW3 = _shrink(pixels_HW3, short_side)
    encoded = _encode(capped_HW3, ".jpg", jpeg)
    if len(encoded) >= len(data) and image.plain and image.short_side < 2 * short_side:
        return data, pixels_HW3
    return encoded, capped_HW3


def _reduction(image: Image.Image, short_side: int | None) -> int:
    """By how much a file is decoded smaller: a power of two that leaves at least `short_side` pixels."""
    if short_side is None or image.format not in ("JPEG", "MPO"):
        return 1
    return next((by for by in _REDUCED if min(image.size) >= by * short_side), 1)


def _opencv_agrees(image: Image.Image) -> bool:
    if image.mode not in _PLAIN_MODES.get(image.format or "", ()) or "transparency" in image.info:
        return False
    # An MPO file is a JPEG with more pictures behind it (phones); both libraries take the first.
    return image.format in ("JPEG", "MPO") or not getattr(image, "is_animated", False)


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF is common and says nothing about the pixels.
        return 1
    return value if value in _ORIENT else 1


def _oriented(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return np.ascontiguousarray(_ORIENT[orientation](pixels)) if orientation != 1 else pixels


def _opencv_decode(data: bytes, reduction: int = 1) -> np.ndarray | None:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED.get(reduction, 0)
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _pillow_decode(data: bytes, image: Image.Image, complete: bool, reduction: int) -> np.ndarray:
    try:
        if not complete and image.format in ("JPEG", "MPO"):
            # Zero padding lets the decoder run on to a grey rest; without it Pillow meets the true end and says so.
            image = open_header(data.rstrip(b"\0"))
        elif reduction > 1:  # Else it is decoded in full, since at a lower scale the last bytes are not missed.
            image.draft(None, (image.width // reduction, image.height // reduction))
        image.load()
        # Asked for last: what Pillow turns by itself while loading (TIFF) is upright then.
        return _oriented(_to_rgb(image), _orientation(image))
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("too_large", f"{image.width} x {image.height} pixels, more than memory allows") from None
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
    if min(height, width) == short_side:
        return image_HW3
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)


def _encode(image_HW3: np.ndarray, extension: str, options: list[int]) -> bytes:
    try:
        done, encoded = cv2.imencode(extension, cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done = False
    if not done:
        raise ImageError("unsupported", f"an image of shape {image_HW3.shape} cannot be encoded as {extension}")
    return encoded.tobytes()
