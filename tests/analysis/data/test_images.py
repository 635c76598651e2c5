"""Every odd image becomes the right pixels, every bad one a sentence."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from analysis.data.images import MAX_PIXELS, BadImageError, read_image


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 0, rows: bytes = b"") -> bytes:
    """A PNG written by hand: any size in the header, whatever the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pixels(data: bytes) -> list[list[list[int]]]:
    image = read_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def grey(rows: list[list[int]]) -> list[list[list[int]]]:
    return [[[value] * 3 for value in row] for row in rows]


@pytest.fixture
def noise() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(values)


# ---- where it comes from


def test_path_stream_and_bytes_give_the_same_image(tmp_path: Path, noise: Image.Image) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encode(noise, "PNG"))
    stream = io.BytesIO(file.read_bytes())
    stream.seek(0, io.SEEK_END)  # as an upload is left that was read before
    for source in (file, stream, file.read_bytes()):
        assert np.array_equal(np.asarray(read_image(source)), np.asarray(noise))
    assert not stream.closed


@pytest.mark.parametrize("form", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_keep_every_pixel(form: str, noise: Image.Image) -> None:
    assert np.array_equal(np.asarray(read_image(encode(noise, form))), np.asarray(noise))


# ---- colours


def test_cmyk_jpeg_is_not_inverted() -> None:
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    colour = np.asarray(read_image(encode(flat, "JPEG", quality=95)), dtype=int)
    assert np.abs(colour - (255, 0, 0)).max() <= 3


def test_cmyk_tiff() -> None:
    image = Image.new("CMYK", (2, 1), (255, 0, 255, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    assert pixels(encode(image, "TIFF")) == [[[0, 255, 0], [0, 0, 0]]]


def test_lab_becomes_rgb() -> None:
    srgb = ImageCms.createProfile("sRGB")
    lab = ImageCms.profileToProfile(
        Image.new("RGB", (2, 2), (200, 30, 30)), srgb, ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    colour = np.asarray(read_image(encode(lab, "TIFF")), dtype=int)
    assert np.abs(colour - (200, 30, 30)).max() <= 6


def test_greyscale_and_bilevel() -> None:
    image = Image.fromarray(np.array([[0, 77, 255]], dtype=np.uint8))
    assert pixels(encode(image, "PNG")) == grey([[0, 77, 255]])
    assert pixels(encode(image.point(lambda v: 255 * (v > 50), "1"), "PNG")) == grey([[0, 255, 255]])


@pytest.fixture
def palette() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 255, 0])
    for x in range(3):
        image.putpixel((x, 0), x)
    return image


def test_palette(palette: Image.Image) -> None:
    assert pixels(encode(palette, "PNG")) == [[[10, 20, 30], [200, 100, 50], [0, 255, 0]]]


def test_palette_with_one_transparent_colour(palette: Image.Image) -> None:
    expected = [[[10, 20, 30], [255, 255, 255], [0, 255, 0]]]
    assert pixels(encode(palette, "PNG", transparency=1)) == expected
    assert pixels(encode(palette, "GIF", transparency=1)) == expected


def test_palette_with_alphas(palette: Image.Image) -> None:
    # 51 / 255 is a fifth: 255 + (200 - 255) / 5 = 244, and so on
    data = encode(palette, "PNG", transparency=bytes([255, 51, 0]))
    assert pixels(data) == [[[10, 20, 30], [244, 224, 214], [255, 255, 255]]]


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (3, 1), (200, 100, 50, 255))
    image.putpixel((1, 0), (200, 100, 50, 51))
    image.putpixel((2, 0), (200, 100, 50, 0))
    expected = [[[200, 100, 50], [244, 224, 214], [255, 255, 255]]]
    assert pixels(encode(image, "PNG")) == expected
    assert pixels(encode(image, "WEBP", lossless=True, exact=True)) == expected


def test_grey_with_alpha_and_rgb_with_a_transparent_colour() -> None:
    image = Image.new("LA", (2, 1), (100, 51))
    image.putpixel((1, 0), (100, 255))
    assert pixels(encode(image, "PNG")) == grey([[224, 100]])
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (4, 5, 6))
    data = encode(image, "PNG", transparency=(1, 2, 3))
    assert pixels(data) == [[[255, 255, 255], [4, 5, 6]]]


# ---- more than 8 bits


SIXTEEN = np.array([[0, 257, 1000, 32768, 65535]], dtype=np.uint16)
EIGHT = grey([[0, 1, 4, 128, 255]])  # value / 257, rounded


def test_16_bit_greyscale_is_scaled_not_clipped() -> None:
    image = Image.fromarray(SIXTEEN)
    assert pixels(encode(image, "PNG")) == EIGHT
    assert pixels(encode(image, "TIFF")) == EIGHT
    assert pixels(encode(image.crop((0, 0, 3, 1)), "PNG")) == grey([[0, 1, 4]])  # dark stays dark
    big_endian = Image.frombytes("I;16B", image.size, SIXTEEN.astype(">u2").tobytes())
    assert pixels(encode(big_endian, "TIFF")) == EIGHT


def test_16_bit_pgm() -> None:
    assert pixels(b"P5 5 1 65535\n" + SIXTEEN.astype(">u2").tobytes()) == EIGHT


def test_16_bit_colour_and_alpha() -> None:
    assert pixels(png(1, 1, 16, 2, b"\0\x80\x00\x40\x00\xff\xff")) == [[[128, 64, 255]]]
    assert pixels(png(1, 1, 16, 4, b"\0\x64\x00\x33\x00")) == grey([[224]])


def test_32_bit_integers() -> None:
    image = Image.fromarray(SIXTEEN.astype(np.int32))
    assert pixels(encode(image, "TIFF")) == EIGHT
    wide = Image.fromarray(np.array([[-1000, 0, 1_000_000]], dtype=np.int32))
    assert pixels(encode(wide, "TIFF")) == grey([[0, 0, 255]])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.25, 0.5], [0, 64, 128]),
        ([0.0, 64.0, 200.0], [0, 64, 200]),
        ([-10.0, 0.0, 40.0], [0, 51, 255]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([-5.0, -5.0, -5.0], [0, 0, 0]),
    ],
)
def test_floats(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert pixels(encode(image, "TIFF")) == grey([expected])


def test_floats_that_are_not_finite() -> None:
    image = Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32))
    with pytest.raises(BadImageError, match=r"^map\.tif has values that are not finite numbers$"):
        read_image(encode(image, "TIFF"), "map.tif")


# ---- movement and rotation


@pytest.mark.parametrize(("form", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_animation_gives_its_first_frame(form: str, options: dict[str, bool]) -> None:
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    data = encode(red, form, save_all=True, append_images=[blue], duration=50, **options)
    with Image.open(io.BytesIO(data)) as file:
        assert getattr(file, "n_frames", 1) == 2
    assert pixels(data) == [[[255, 0, 0]] * 4] * 4


# what a viewer shows of rows [[1, 2], [3, 4], [5, 6]], from the definition of the tag
UPRIGHT = {
    1: [[1, 2], [3, 4], [5, 6]],
    2: [[2, 1], [4, 3], [6, 5]],
    3: [[6, 5], [4, 3], [2, 1]],
    4: [[5, 6], [3, 4], [1, 2]],
    5: [[1, 3, 5], [2, 4, 6]],
    6: [[5, 3, 1], [6, 4, 2]],
    7: [[6, 4, 2], [5, 3, 1]],
    8: [[2, 4, 6], [1, 3, 5]],
    9: [[1, 2], [3, 4], [5, 6]],  # no such orientation
}


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x010F] = "a camera"
    return tags


@pytest.mark.parametrize("orientation", list(UPRIGHT))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, form: str) -> None:
    image = Image.fromarray(np.array(UPRIGHT[1], dtype=np.uint8))
    data = encode(image, form, exif=exif(orientation))
    assert pixels(data) == grey(UPRIGHT[orientation])
    assert not read_image(data).getexif()  # else the next reader turns it again


def test_rotated_photo_in_jpeg() -> None:
    left_red = Image.new("RGB", (32, 16), "blue")
    left_red.paste("red", (0, 0, 16, 16))
    photo = read_image(encode(left_red, "JPEG", exif=exif(6)))
    assert photo.size == (16, 32)
    pixels = np.asarray(photo)
    top, bottom = pixels[4, 8], pixels[28, 8]
    assert top[0] > 240 and top[2] < 15 and bottom[0] < 15 and bottom[2] > 240


def test_damaged_exif_leaves_the_photo_as_it_lies(noise: Image.Image) -> None:
    data = encode(noise, "PNG", exif=exif(6))
    assert read_image(data).size == (24, 32)
    start = data.index(b"eXIf")
    length = struct.unpack(">I", data[start - 4 : start])[0]
    chunk = b"eXIf" + b"no metadata at all".ljust(length)
    damaged = data[:start] + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[start + length + 8 :]
    assert np.array_equal(np.asarray(read_image(damaged)), np.asarray(noise))


# ---- refused


def test_text_renamed(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("milk, eggs, bread\n" * 20)
    with pytest.raises(BadImageError, match=r"^notes\.jpg is not an image: its content cannot be read as"):
        read_image(file)
    with file.open("rb") as stream, pytest.raises(BadImageError, match=r"^notes\.jpg is not an image"):
        read_image(stream)


def test_empty(tmp_path: Path) -> None:
    file = tmp_path / "nothing.png"
    file.touch()
    with pytest.raises(BadImageError, match=r"^nothing\.png is empty$"):
        read_image(file)
    with pytest.raises(BadImageError, match=r"^the image is empty$"):
        read_image(b"")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^gone\.jpg cannot be opened: No such file or directory$"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(BadImageError, match=r"cannot be opened"):
        read_image(tmp_path)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_truncated(form: str, noise: Image.Image) -> None:
    data = encode(noise, form)
    with pytest.raises(BadImageError, match=r"^cut is damaged or incomplete \([^\n]+\)$"):
        read_image(data[: len(data) * 2 // 3], "cut")


def test_corrupt(noise: Image.Image) -> None:
    data = bytearray(encode(noise, "PNG"))
    middle = data.index(b"IDAT") + 40
    data[middle : middle + 200] = bytes(200)
    with pytest.raises(BadImageError, match=r"^bad\.png is damaged or incomplete \([^\n]+\)$"):
        read_image(bytes(data), "bad.png")


def test_too_large_is_refused_before_decoding(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(
        BadImageError, match=r"^big is too large: .* at most 64 megapixels, got 400 megapixels$"
    ):
        read_image(png(20_000, 20_000), "big")
    with pytest.raises(BadImageError, match=r"at most 64 megapixels, got 9000 x 10000$"):  # Pillow only warns
        read_image(png(9_000, 10_000))
    with pytest.raises(
        BadImageError, match=r"damaged or incomplete"
    ):  # within bounds: refused for its missing pixels
        read_image(png(64_000, MAX_PIXELS // 64_000))
    assert not recwarn.list


def test_too_thin() -> None:
    assert read_image(png(1, 100, rows=bytes(200))).size == (1, 100)
    with pytest.raises(BadImageError, match=r"at most 100 times the short side, got 101 x 1$"):
        read_image(png(101, 1, rows=bytes(102)))


@pytest.mark.parametrize("data", [png(0, 5), png(5, 0), b"P6 0 0 255\n"])
def test_no_pixels(data: bytes) -> None:
    with pytest.raises(BadImageError, match=r"is not an image"):
        read_image(data)


def test_formats_that_run_other_programs_are_not_opened() -> None:
    with pytest.raises(BadImageError, match=r"is not an image"):
        read_image(encode(Image.new("RGB", (4, 4)), "EPS"))


def test_whatever_is_broken_gives_one_sentence(noise: Image.Image) -> None:
    rng = np.random.default_rng(0)
    originals = [encode(noise, form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP")]
    refused = 0
    for turn in range(300):
        data = bytearray(originals[turn % len(originals)])
        for place in rng.integers(0, min(len(data), 200), 4):
            data[place] = rng.integers(0, 256)
        try:
            assert read_image(bytes(data)).mode == "RGB"
        except BadImageError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 200
    assert refused > 50


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hand_made(colour: int, *between: bytes, depth: int = 8) -> bytes:
    """A PNG of 2 x 2 pixels of zeros, of this colour type, with chunks before the pixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    rows = (b"\0" + bytes(-(-2 * channels * depth // 8))) * 2
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(between) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize(
    "between", [(), (chunk(b"tRNS", b"\0"),), (chunk(b"tRNS", b"\0" * 300),), (chunk(b"PLTE", b""),)]
)
def test_indices_without_a_palette(depth: int, between: tuple[bytes, ...]) -> None:
    with pytest.raises(BadImageError, match=r"^index\.png is damaged or incomplete: its colours are indices"):
        read_image(io.BytesIO(hand_made(3, *between, depth=depth)), "index.png")


@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6])
@pytest.mark.parametrize("palette", [b"", b"\0" * 3, b"\0" * 4, b"\0" * 900])
@pytest.mark.parametrize("transparent", [None, b"", b"\0", b"\0" * 2, b"\0" * 6, b"\xff" * 300])
def test_palettes_and_transparency_of_any_length(
    colour: int, palette: bytes, transparent: bytes | None
) -> None:
    between = [chunk(b"PLTE", palette)] + ([] if transparent is None else [chunk(b"tRNS", transparent)])
    try:
        assert read_image(hand_made(colour, *between)).mode == "RGB"
    except BadImageError as error:
        assert "\n" not in str(error) and len(str(error)) < 200
