"""Files as a crawl brings them, made of a real picture: kinds that are cropped nevertheless, and kinds that are not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes whose header asks for width x height pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _turned(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", exif=exif)


def _clear(image: Image.Image) -> bytes:
    see_through = image.convert("RGBA")
    see_through.putalpha(128)
    return encoded(see_through, "PNG")


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


# Each with the extension that it is given.
USABLE: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "cmyk": ("jpg", lambda image: encoded(image.convert("CMYK"), "JPEG")),
    "grey": ("png", lambda image: encoded(image.convert("L"), "PNG")),
    "16-bit": (
        "png",
        lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype("<u2") * 257), "PNG"),
    ),
    "palette": ("gif", lambda image: encoded(image.quantize(64), "GIF")),
    "alpha": ("png", _clear),
    "exif turn": ("jpg", _turned),
    "animated": ("gif", lambda image: encoded(image, "GIF", save_all=True, append_images=[image.rotate(90)])),
    "one pixel": ("png", lambda image: encoded(image.resize((1, 1)), "PNG")),
    "strip": ("png", lambda image: encoded(image.resize((700, 2)), "PNG")),
    "wrong extension": ("png", lambda image: encoded(image, "JPEG")),
}

# Each with the reason it is quarantined for.
UNUSABLE: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "no bytes": ("empty", lambda image: b""),
    "html": ("not_an_image", lambda image: b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "xml": ("not_an_image", lambda image: b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
    "nothing but zeros": ("not_an_image", lambda image: bytes(3000)),
    "cut jpeg": ("truncated", lambda image: encoded(image, "JPEG")[:-300]),
    "cut and padded jpeg": ("truncated", lambda image: encoded(image, "JPEG")[:-300] + bytes(300)),
    "cut png": ("truncated", lambda image: encoded(image, "PNG")[:-300]),
    "damaged png": ("corrupt", lambda image: _flipped(encoded(image, "PNG"))),
    "bomb": ("too_large", lambda image: bomb(30_000, 30_000)),
    "heic": ("unsupported", lambda image: b"\x00\x00\x00\x18ftypheic" + bytes(400)),
    "pdf": ("unsupported", lambda image: b"%PDF-1.7\n" + bytes(400)),
    "float tiff": (
        "unsupported",
        lambda image: encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.float32)), "TIFF"),
    ),
}
