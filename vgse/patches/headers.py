"""What can be said of an encoded image before decoding it: its kind, its size, whether its end is there."""

import io
import zlib

from PIL import Image, UnidentifiedImageError

# A closed list: Pillow would otherwise offer every plugin, among them EPS, which starts Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "PCX", "DIB")
_KNOWN_BUT_UNSUPPORTED = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x1aE\xdf\xa3", "video"),
)
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim", b"heis")
_EOI = b"\xff\xd9"


REASONS = ("missing", "empty", "not_an_image", "unsupported", "truncated", "corrupt", "too_large")


class ImageError(Exception):
    """One image cannot be used. `reason` is one of `REASONS`, to count by, `detail` a sentence to read.

    Reasons: `missing` (the file has gone since it was listed), `empty` (no bytes), `not_an_image` (HTML, text, anything
    unknown), `unsupported` (a known format or pixel type that is not decoded), `truncated` (the end is missing),
    `corrupt` (complete but not decodable), `too_large` (more pixels than allowed, found in the header before any
    decoding, or than memory holds).
    """

    def __init__(self, reason: str, detail: str) -> None:
        # Both arguments go to Exception so that the error survives pickling between processes.
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def open_header(data: bytes, max_pixels: int | None = None) -> Image.Image:
    """Read the header only: an unloaded Pillow image, at most `max_pixels` large.

    Raises:
        ImageError: any reason but those found by decoding.
    """
    if not data:
        raise ImageError("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("too_large", str(error)) from None
    except Exception as error:  # Pillow's plugins raise anything from OSError to KeyError on bad headers.
        raise _bad_header(data, error) from None
    if max_pixels is not None and image.width * image.height > max_pixels:
        raise ImageError("too_large", f"{image.width} x {image.height} pixels, more than max_pixels = {max_pixels}")
    return image


def looks_complete(data: bytes, image_format: str | None) -> bool:
    """Whether the format's end marker is where it should be (True for formats without a cheap test).

    For JPEG the marker must follow the start of the first scan: an embedded thumbnail has its own, earlier. Bytes after
    it are allowed (cameras append), padding without it is not.
    """
    if image_format in ("JPEG", "MPO"):
        return data.endswith(_EOI) or data.find(_EOI, _first_scan(data)) >= 0
    if image_format == "PNG":
        return data.rfind(b"IEND\xaeB`\x82") >= 0
    if image_format == "WEBP":
        return len(data) >= int.from_bytes(data[4:8], "little") + 8
    if image_format == "GIF":
        return b"\x3b" in data[-16:]
    return True


def png_is_damaged(data: bytes) -> bool:
    """Whether a checksum of a PNG's pixels or palette does not match; decoders differ in whether they mind."""
    at = 8
    while at + 12 <= len(data):
        kind, stop = data[at + 4 : at + 8], at + 8 + int.from_bytes(data[at : at + 4], "big")
        needed = not kind[0] & 0x20
        if needed and zlib.crc32(memoryview(data)[at + 4 : stop]) != int.from_bytes(data[stop : stop + 4], "big"):
            return True
        if kind == b"IEND":
            break
        at = stop + 4
    return False


def _bad_header(data: bytes, error: Exception) -> ImageError:
    for magic, name in ((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF8", "GIF"), (b"RIFF", "WEBP")):
        if data.startswith(magic) and (name != "WEBP" or data[8:12] == b"WEBP"):
            reason = "corrupt" if looks_complete(data, name) else "truncated"
            return ImageError(reason, f"a {name} file whose header cannot be read ({len(data)} bytes)")
    for magic, name in _KNOWN_BUT_UNSUPPORTED:
        if data.startswith(magic):
            return ImageError("unsupported", f"{name} files are not decoded; convert them to JPEG or PNG")
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        return ImageError("unsupported", "HEIF/HEIC files are not decoded; convert them to JPEG or PNG")
    if not isinstance(error, UnidentifiedImageError):
        return ImageError("corrupt", f"unreadable header: {error!r}")
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    kind = "HTML or XML" if start.startswith(b"<") else "no known image format"
    return ImageError("not_an_image", f"{kind}, begins with {data[:16]!r}")


def _first_scan(data: bytes) -> int:
    """Offset of the first SOS marker, walking the marker segments; the end of the data when there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return at
        at += 1 if marker == 0xFF else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return len(data)
