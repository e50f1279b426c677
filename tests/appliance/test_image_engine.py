"""The image engine against Pillow called directly, and against files that are damaged or lie."""

import base64
import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from appliance.engines.image import FILTERS, ImageEngine, MediaError, centre_crop, colour, resize
from tests.rig.packages import held_out, padded_jpeg

BOTH = ("JPEG", "PNG")


def engine(mode: str = "L", size: tuple[int, int] = (16, 16), max_pixels: int = 1 << 22) -> ImageEngine:
    steps = (colour(mode), resize(size[0], size[1], "bilinear"))
    return ImageEngine(BOTH, max_pixels, steps, (size[1], size[0], {"L": 1, "RGB": 3}[mode]))


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    with io.BytesIO() as sink:
        picture.save(sink, form, **options)
        return sink.getvalue()


def gradient(mode: str, size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Return a picture whose channels all differ, in any of Pillow's modes."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = (x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 256)
    picture = Image.fromarray(np.stack([red, green, blue], axis=-1).astype(np.uint8), "RGB")
    if mode == "RGBA":
        picture.putalpha(Image.fromarray((x * 6 % 256).astype(np.uint8)))
        return picture
    if mode == "I;16":
        return Image.fromarray((x * 257).astype(np.uint16))
    return picture.convert(mode)


def pillow(body: bytes, mode: str, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(body)) as picture:
        scaled = picture.convert(mode).resize(size, Image.Resampling.BILINEAR)
        return np.asarray(scaled).reshape(size[1], size[0], -1)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("source", "form", "options"),
    [
        ("L", "JPEG", {}),
        ("RGB", "JPEG", {"quality": 95}),
        ("RGB", "JPEG", {"progressive": True}),
        ("CMYK", "JPEG", {}),
        ("1", "PNG", {}),
        ("L", "PNG", {}),
        ("P", "PNG", {}),
        ("RGB", "PNG", {}),
        ("LA", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("I;16", "PNG", {}),
    ],
)
def test_pixels_are_pillows(mode: str, source: str, form: str, options: dict[str, Any]) -> None:
    body = encoded(gradient(source), form, **options)
    pixels, decoded = engine(mode, (11, 7)).decode(body)
    assert pixels.dtype == np.uint8
    assert decoded == 40 * 30
    np.testing.assert_array_equal(pixels, pillow(body, mode, (11, 7)))


@pytest.mark.parametrize("form", BOTH)
def test_a_single_pixel(form: str) -> None:
    body = encoded(Image.new("RGB", (1, 1), (200, 200, 200)), form)
    pixels, decoded = engine("RGB", (4, 4)).decode(body)
    assert decoded == 1
    np.testing.assert_array_equal(pixels, pillow(body, "RGB", (4, 4)))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by 90 degrees
    plain, tagged = encoded(gradient("L"), "JPEG"), encoded(gradient("L"), "JPEG", exif=exif)
    np.testing.assert_array_equal(engine().decode(plain)[0], engine().decode(tagged)[0])


def test_of_an_animation_the_first_picture_counts() -> None:
    first, second = gradient("RGB"), gradient("RGB").rotate(180)
    body = encoded(first, "PNG", save_all=True, append_images=[second])
    still = encoded(first, "PNG")
    np.testing.assert_array_equal(engine("RGB").decode(body)[0], engine("RGB").decode(still)[0])


def test_comments_of_any_length_change_nothing() -> None:
    jpeg = held_out()[0][1]
    np.testing.assert_array_equal(engine().decode(padded_jpeg(jpeg, 100_000))[0], engine().decode(jpeg)[0])


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (6, 6), (1, 7)])
def test_crop_is_the_largest_centred_square(size: tuple[int, int]) -> None:
    width, height = size
    side = min(size)
    grey = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    cropped = np.asarray(centre_crop()(Image.fromarray(grey)))
    top, left = (height - side) // 2, (width - side) // 2
    np.testing.assert_array_equal(cropped, grey[top : top + side, left : left + side])


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_filters_are_pillows_of_the_same_name(name: str) -> None:
    scaled = resize(10, 6, name)(gradient("L"))
    expected = gradient("L").resize((10, 6), Image.Resampling[name.upper()])
    np.testing.assert_array_equal(np.asarray(scaled), np.asarray(expected))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that claims to have so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg_header(width: int, height: int) -> bytes:
    """Return a JPEG that claims to have so many pixels: a good one with another frame header."""
    jpeg = bytearray(encoded(gradient("RGB"), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(jpeg)


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (png_header(65535, 65535), "65535x65535"),
        (png_header(0x7FFFFFFF, 0x7FFFFFFF), "2147483647x2147483647"),
        (jpeg_header(65535, 65535), "65535x65535"),
        (png_header(2049, 2048), "2049x2048"),
    ],
    ids=["png", "largest png", "jpeg", "one column too many"],
)
def test_bombs_are_refused_by_their_header(body: bytes, size: str) -> None:
    with pytest.raises(MediaError, match=f"image of {size} pixels; at most 4194304 are taken"):
        engine().decode(body)


def test_a_jpeg_of_thousands_of_scans_is_refused() -> None:
    """Each scan of a few bytes is a pass over all pixels: 256 kB of them would be seconds of work."""
    jpeg = encoded(gradient("L"), "JPEG", progressive=True)
    begin, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    with pytest.raises(MediaError, match="more than 100 scans"):
        engine().decode(jpeg[:end] + jpeg[begin:end] * 1000 + jpeg[end:])


@pytest.mark.parametrize("form", BOTH)
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.3, 0.6])
def test_cut_images_are_refused(form: str, keep: float) -> None:
    body = encoded(gradient("RGB"), form)
    with pytest.raises(MediaError):
        engine().decode(body[: int(len(body) * keep)])


@pytest.mark.parametrize(
    "body",
    [b"", b"GIF89a", b"hello", encoded(gradient("RGB"), "BMP"), encoded(gradient("P"), "GIF")],
    ids=["nothing", "gif magic", "text", "bmp", "gif"],
)
def test_other_media_are_refused(body: bytes) -> None:
    with pytest.raises(MediaError, match="not a JPEG or PNG image"):
        engine().decode(body)


def test_formats_that_the_pipeline_does_not_take_are_refused() -> None:
    jpeg_only = ImageEngine(("JPEG",), 1 << 22, (colour("L"), resize(16, 16, "bilinear")), (16, 16, 1))
    with pytest.raises(MediaError, match="not a JPEG image"):
        jpeg_only.decode(encoded(gradient("L"), "PNG"))


SEEDS = [encoded(gradient("RGB"), "JPEG"), encoded(gradient("P"), "PNG"), encoded(gradient("RGBA"), "PNG")]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
)
def test_damaged_images_are_pixels_or_a_media_error(seed: bytes, wounds: list[tuple[float, int]]) -> None:
    body = bytearray(seed)
    for where, value in wounds:
        body[int(where * len(body))] = value
    with contextlib.suppress(MediaError):
        pixels, _ = engine().decode(bytes(body))
        assert pixels.shape == (16, 16, 1)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_media_error(body: bytes) -> None:
    with pytest.raises(MediaError):
        engine().decode(body)


def test_in_a_batch_only_the_bad_ones_fail() -> None:
    good = [jpeg for _, jpeg in held_out()[:3]]
    images, pixels, failures = engine().decode_batch([good[0], b"junk", good[1], b"", good[2]])
    assert sorted(failures) == [1, 3]
    assert pixels.tolist() == [4096, 0, 4096, 0, 4096]
    assert not images[[1, 3]].any()
    for index, body in zip((0, 2, 4), good, strict=True):
        np.testing.assert_array_equal(images[index], pillow(body, "L", (16, 16)))


def test_a_png_that_breaks_an_assertion_within_the_decoder_is_refused() -> None:
    # A palette with transparency and a second IDAT: the conversion asserts that there is a palette, and there is none.
    killer = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAABgAAAAUAQMAAACte2/AAAAADElEQVR4nGNgoC4AAABQAAHzMPcqAAAAA1BMVEUAAACnej3aAAAA"
        "AXRSTlMAQObYZgAAAAxJREFUeJxjYKAuAAAAUAAB8zD3KgAAAABJRU5ErkJggg=="
    )
    with pytest.raises(MediaError):
        engine().decode(killer)


def test_texts_in_a_png_are_not_unpacked_without_bound() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    whole = io.BytesIO()
    Image.new("L", (16, 16)).save(whole, "PNG")
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 20)))
    bomb = whole.getvalue()[:33] + text * 63 + whole.getvalue()[33:]
    assert len(bomb) < 100_000
    with pytest.raises(MediaError):
        engine().decode(bomb)
