"""Decoding: the odd files a crawl brings, made here with Pillow; why a file is refused; the stored form."""

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_images import bomb, encoded
from PIL import Image

from vgse.patches import ImageError, cap_short_side, decode, decode_image, decode_stored

SAMPLES = Path(__file__).parents[1].parent / "shared" / "data" / "imagenet_samples"


def photo(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth and different in every corner, so that a turn or a colour swap cannot pass and JPEG stays close."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], 2).astype(np.uint8)


def close(got: np.ndarray, want: np.ndarray, mean: float = 3.0) -> bool:
    assert got.dtype == np.uint8
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    return float(np.abs(got.astype(int) - want).mean()) <= mean


RGB = Image.fromarray(photo())
GREY = RGB.convert("L")
GREY_RGB = np.asarray(GREY.convert("RGB"))


GREY_16 = Image.fromarray(np.asarray(GREY).astype(np.uint16) * 257)
PALETTE, BILEVEL = RGB.quantize(256), GREY.convert("1")
KINDS = {
    "png": (encoded(RGB, "PNG"), photo(), 0),
    "bmp": (encoded(RGB, "BMP"), photo(), 0),
    "tiff": (encoded(RGB, "TIFF"), photo(), 0),
    "ppm": (encoded(RGB, "PPM"), photo(), 0),
    "webp": (encoded(RGB, "WEBP", lossless=True), photo(), 0),
    "jpeg": (encoded(RGB, "JPEG", quality=95), photo(), 3),
    "progressive jpeg": (encoded(RGB, "JPEG", quality=95, progressive=True), photo(), 3),
    "avif": (encoded(RGB, "AVIF", quality=95), photo(), 3),
    "jpeg 2000": (encoded(RGB, "JPEG2000"), photo(), 3),
    "cmyk jpeg": (encoded(RGB.convert("CMYK"), "JPEG", quality=95), photo(), 4),
    "grey jpeg": (encoded(GREY, "JPEG", quality=95), GREY_RGB, 3),
    "grey png": (encoded(GREY, "PNG"), GREY_RGB, 0),
    "16-bit grey png": (encoded(GREY_16, "PNG"), GREY_RGB, 0),
    "16-bit grey tiff": (encoded(GREY_16, "TIFF"), GREY_RGB, 0),
    "palette png": (encoded(PALETTE, "PNG"), np.asarray(PALETTE.convert("RGB")), 0),
    "bilevel png": (encoded(BILEVEL, "PNG"), np.asarray(BILEVEL.convert("RGB")), 0),
}


@pytest.mark.parametrize(("data", "want", "mean"), KINDS.values(), ids=KINDS.keys())
def test_every_kind_becomes_rgb(data: bytes, want: np.ndarray, mean: float) -> None:
    assert close(decode_image(data), want, mean)


def test_16_bit_rgb_png_keeps_its_upper_bits() -> None:
    done, data = cv2.imencode(".png", photo()[..., ::-1].astype(np.uint16) * 257)
    assert done
    assert close(decode_image(data.tobytes()), photo(), 0)


def test_transparency_is_composited_on_white() -> None:
    pixels = np.dstack([photo(), np.full((48, 64), 255, np.uint8)])
    pixels[:, :32, 3] = 0
    for image_format in ("PNG", "WEBP"):
        got = decode_image(encoded(Image.fromarray(pixels), image_format, lossless=True))
        assert (got[:, :32] == 255).all()
        assert np.array_equal(got[:, 32:], photo()[:, 32:])


@pytest.mark.parametrize("key", [255, (255, 0, 0)])
def test_a_transparent_colour_key_is_composited_too(key: object) -> None:
    base = np.zeros((4, 4, 3) if isinstance(key, tuple) else (4, 4), np.uint8)
    base[0, 0] = key
    got = decode_image(encoded(Image.fromarray(base), "PNG", transparency=key))
    assert got[0, 0].tolist() == [255, 255, 255]
    assert got[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(image_format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    # The stored picture is whichever one the given turn restores to the upright one, found with Pillow's own table.
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = RGB if inverse is None else RGB.transpose(Image.Transpose(inverse))
    data = encoded(stored, image_format, exif=exif, quality=95)
    assert close(decode_image(data), photo(), 4)
    if image_format != "TIFF":  # Its turn is plain to Pillow alone; the stored form is never a TIFF anyway.
        kept, pixels = cap_short_side(data, decode(data), 256)
        assert (kept == data) == (orientation == 1)
        assert close(decode_stored(kept), pixels)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_nonsense_orientation_and_damaged_exif_are_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 77
    assert close(decode_image(encoded(RGB, "JPEG", exif=exif, quality=95)), photo())
    with_junk = encoded(RGB, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xffjunk", quality=95)
    assert close(decode_image(with_junk), photo())


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_animations_give_their_first_frame(image_format: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    options = {"save_all": True, "append_images": frames[1:], "duration": 50, "lossless": True}
    assert close(decode_image(encoded(frames[0], image_format, **options)), np.asarray(frames[0]), 1)


def test_multi_picture_jpeg_gives_its_first_picture_and_is_plain() -> None:
    data = encoded(RGB, "MPO", save_all=True, append_images=[GREY.convert("RGB")], quality=95)
    assert close(decode_image(data), photo())
    kept, same = cap_short_side(data, decode(data), 256)
    assert kept == data
    assert np.array_equal(decode_stored(kept), same)


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_one_pixel(image_format: str) -> None:
    assert decode_image(encoded(Image.new("RGB", (1, 1), "white"), image_format)).tolist() == [[[255, 255, 255]]]


def test_bytes_after_the_end_are_allowed() -> None:
    data = encoded(RGB, "JPEG", quality=95)
    assert np.array_equal(decode_image(data + b"camera maker's notes" * 50), decode_image(data))


JPEG, PNG = encoded(RGB, "JPEG", quality=95), encoded(RGB, "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "not_an_image"),
        (b"\xef\xbb\xbf\n<?xml version='1.0'?><Error/>", "not_an_image"),
        (b"Not found\n", "not_an_image"),
        (bytes(5000), "not_an_image"),
        (b"%PDF-1.7 ...", "unsupported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unsupported"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(40), "unsupported"),
        (encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "unsupported"),
        (encoded(Image.fromarray(np.full((4, 4), 1 << 20, np.int32)), "TIFF"), "unsupported"),
        (JPEG[:3], "truncated"),
        (JPEG[:100], "truncated"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (JPEG[:-2], "truncated"),
        (JPEG[: len(JPEG) // 2] + bytes(4000), "truncated"),
        (PNG[: len(PNG) // 2], "truncated"),
        (PNG[:20], "truncated"),
        (encoded(RGB, "WEBP")[:-30], "truncated"),
        (encoded(RGB, "GIF")[:-400], "truncated"),
        (encoded(RGB, "BMP")[:-400], "truncated"),
        (PNG[:100] + bytes([PNG[100] ^ 255]) + PNG[101:], "corrupt"),
        (bomb(60_000, 60_000), "too_large"),
        (bomb(15_000, 15_000), "too_large"),
    ],
)
def test_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(data)
    assert caught.value.reason == reason
    assert caught.value.detail
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, again.detail) == (caught.value.reason, caught.value.detail)


def test_a_changed_byte_anywhere_in_the_pixels_of_a_png_is_noticed() -> None:
    start = PNG.index(b"IDAT") + 4
    for at in range(start, len(PNG) - 16, 97):
        with pytest.raises(ImageError, match="corrupt"):
            decode_image(PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :])


def test_a_thumbnails_end_marker_does_not_hide_a_cut() -> None:
    thumbnail = encoded(RGB.resize((16, 12)), "JPEG")
    whole = encoded(RGB, "JPEG", quality=95, exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00" + thumbnail)
    assert close(decode_image(whole), photo())
    with pytest.raises(ImageError, match="truncated"):
        decode_image(whole[:-50])


def test_the_limit_is_checked_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="too_large"):
        decode_image(JPEG, max_pixels=48 * 64 - 1)


def test_a_cut_anywhere_never_gives_pixels_silently() -> None:
    for data in (JPEG, encoded(RGB, "JPEG", progressive=True)):
        for end in range(1, len(data) - 1, max(1, len(data) // 60)):
            with pytest.raises(ImageError):
                decode_image(data[:end])


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_pixels_or_an_image_error_and_nothing_else(kind: str) -> None:
    whole = KINDS[kind][0]
    rng = np.random.default_rng(len(whole))
    for _ in range(25):
        damaged = bytearray(whole[: rng.integers(1, len(whole) + 1)] if rng.random() < 0.3 else whole)
        for at in rng.integers(0, len(damaged), rng.integers(1, 6)):
            damaged[at] = rng.integers(256)
        try:
            image = decode(bytes(damaged), max_pixels=1_000_000)
        except ImageError:
            continue
        assert image.pixels_HW3.dtype == np.uint8
        assert image.pixels_HW3.ndim == 3
        stored, same = cap_short_side(bytes(damaged), image, 32)
        assert decode_stored(stored).shape == same.shape
        assert stored != bytes(damaged) or np.array_equal(decode_stored(stored), same)


def test_opencv_and_pillow_give_the_same_pixels_on_photographs() -> None:
    if not SAMPLES.is_dir():
        pytest.skip("shared/data/imagenet_samples is not beside the checkout")
    for path in sorted(SAMPLES.glob("*.JPEG"))[::25]:
        with Image.open(path) as image:
            assert np.array_equal(decode_image(path.read_bytes()), np.asarray(image.convert("RGB")))


def test_small_plain_images_are_kept_byte_for_byte() -> None:
    for data in (JPEG, PNG, encoded(GREY, "PNG"), encoded(RGB, "WEBP")):
        kept, same = cap_short_side(data, decode(data), 48)
        assert kept == data
        assert np.array_equal(same, decode_image(data))
        assert np.array_equal(cv2.imdecode(np.frombuffer(kept, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], same)


def test_large_images_are_capped_and_boxes_refer_to_what_is_stored() -> None:
    noise = np.random.default_rng(0).integers(0, 60, (300, 500, 3))
    data = encoded(Image.fromarray((photo(300, 500) // 2 + noise).astype(np.uint8)), "PNG")
    stored, pixels = cap_short_side(data, decode(data), 128)
    assert pixels.shape == (128, 213, 3)
    assert len(stored) < len(data)
    assert close(decode_stored(stored), pixels, 8)
    assert np.array_equal(decode_image(stored), decode_stored(stored))


def test_reencoding_that_would_not_help_is_left_out() -> None:
    low_quality = encoded(Image.fromarray(photo(60, 80)), "JPEG", quality=5)
    kept, same = cap_short_side(low_quality, decode(low_quality), 50, quality=100)
    assert kept == low_quality
    assert same.shape == (60, 80, 3)
    # Far above the cap the pixels cost more than the bytes, so the flat PNG is resized although it grows.
    flat = encoded(Image.new("RGB", (600, 600), "red"), "PNG")
    assert cap_short_side(flat, decode(flat), 50)[1].shape == (50, 50, 3)


def test_what_is_not_plain_is_reencoded_even_when_small() -> None:
    clear = Image.fromarray(np.dstack([photo(), np.full((48, 64), 128, np.uint8)]))
    for image, image_format in ((clear, "PNG"), (RGB, "GIF"), (RGB, "BMP"), (RGB.convert("CMYK"), "JPEG")):
        data = encoded(image, image_format)
        stored, same = cap_short_side(data, decode(data), 256)
        assert stored != data
        assert np.array_equal(same, decode_image(data))
        assert close(decode_stored(stored), same, 4)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="quality"):
        cap_short_side(JPEG, decode(JPEG), 10, quality=0)


SMOOTH = Image.fromarray(photo(320, 480))
REDUCED = {
    "jpeg": encoded(SMOOTH, "JPEG", quality=95),
    "grey jpeg": encoded(SMOOTH.convert("L"), "JPEG", quality=95),
    "cmyk jpeg": encoded(SMOOTH.convert("CMYK"), "JPEG", quality=95),
    "progressive jpeg": encoded(SMOOTH, "JPEG", quality=95, progressive=True),
}


@pytest.mark.parametrize("kind", REDUCED)
@pytest.mark.parametrize(("short_side", "reduction"), [(321, 1), (161, 1), (160, 2), (81, 2), (80, 4), (40, 8), (3, 8)])
def test_a_jpeg_much_larger_than_needed_is_decoded_smaller(kind: str, short_side: int, reduction: int) -> None:
    data = REDUCED[kind]
    image, full = decode(data, short_side=short_side), decode_image(data)
    want = cv2.resize(full, (480 // reduction, 320 // reduction), interpolation=cv2.INTER_AREA)
    assert close(image.pixels_HW3, want, 0 if reduction == 1 else 2)
    assert image.short_side == 320
    assert image.plain == (reduction == 1 and kind != "cmyk jpeg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_is_decoded_smaller_is_turned_and_never_below_the_short_side(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)
    for height, width in ((257, 391), (391, 257), (300, 300)):
        lying = Image.fromarray(photo(height, width))
        data, without = encoded(lying, "JPEG", exif=exif, quality=95), encoded(lying, "JPEG", quality=95)
        for short_side in (30, 60, 64, 65, 128):
            small, upright = decode_image(data, short_side=short_side), decode_image(without, short_side=short_side)
            assert min(small.shape[:2]) >= short_side
            want = Image.fromarray(upright)
            assert np.array_equal(small, want if turn is None else want.transpose(Image.Transpose(turn)))


def test_a_cut_is_noticed_at_reduced_scale_too() -> None:
    for data in REDUCED.values():
        for end in (len(data) // 3, len(data) // 2, len(data) - 200):
            with pytest.raises(ImageError, match="truncated"):
                decode_image(data[:end], short_side=40)


def test_what_is_decoded_smaller_is_stored_at_the_cap() -> None:
    stored, pixels = cap_short_side(REDUCED["jpeg"], decode(REDUCED["jpeg"], short_side=100), 100)
    assert decode_stored(stored).shape == pixels.shape == (100, 150, 3)
    assert close(pixels, cv2.resize(photo(320, 480), (150, 100), interpolation=cv2.INTER_AREA), 2)
    # At exactly the cap nothing is resized a second time.
    assert cap_short_side(REDUCED["jpeg"], decode(REDUCED["jpeg"], short_side=80), 80)[1].shape == (80, 120, 3)


def test_a_strip_too_long_for_jpeg_is_stored_as_png() -> None:
    data = encoded(Image.new("RGB", (66_000, 2), "red"), "BMP")
    stored, pixels = cap_short_side(data, decode(data), 64)
    assert pixels.shape == (2, 66_000, 3)
    assert np.array_equal(decode_stored(stored), pixels)
