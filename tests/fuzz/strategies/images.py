"""Image files of all formats and modes, with chunks and bytes edited."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from hypothesis import strategies as st
from PIL import ExifTags, Image

from tests.fuzz.cases import Content
from tests.fuzz.strategies.raw_bytes import altered, damaged

MODES = (
    "1",
    "L",
    "P",
    "PA",
    "LA",
    "I",
    "I;16",
    "F",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "La",
)
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "EPS", "DDS")
_BOMB = zlib.compress(b"\0" * 5_000_000)
SIZES = ((1, 1), (3, 5), (1, 90), (1, 150), (64, 64), (0, 5), (300, 3))


@st.composite
def image_file(draw: st.DrawFn) -> Content:
    """The content of an image file."""
    size, mode = draw(st.sampled_from(SIZES)), draw(st.sampled_from(MODES))
    upright = draw(st.sampled_from([None, 1, 3, 6, 8, 0, 99, "x", 2**40, (1, 2)]))
    content = _written(size, mode, draw(st.sampled_from(FORMATS)), upright)
    if content.startswith(b"\x89PNG") and draw(st.booleans()):
        return draw(png_chunks(content))
    return content if draw(st.booleans()) else draw(altered(content))


def _written(size: tuple[int, int], mode: str, name: str, upright: object) -> bytes:
    """A file of this format, or of another one where Pillow does not write such an image."""
    written, exif = io.BytesIO(), Image.Exif()
    if upright is not None:
        exif[ExifTags.Base.Orientation] = upright
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.new(mode, size).save(written, name, exif=exif)
    except Exception:  # Pillow raises all kinds of errors
        written = io.BytesIO()
        Image.new("RGB", (5, 5)).save(written, "PNG")
    return written.getvalue()


@st.composite
def png_chunks(draw: st.DrawFn, content: bytes) -> bytes:
    """A PNG with chunks left out, doubled, edited or added, each with its right checksum."""
    chunks, place = [], 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + size]))
        place += size + 12
    for _ in range(draw(st.integers(1, 3))):
        i = draw(st.integers(0, len(chunks) - 1))
        name, data = chunks[i]
        way = draw(st.sampled_from(["head", "edit", "gone", "double", "more"]))
        if way == "head":
            width = draw(st.sampled_from([0, 1, 5, 100, 10_000, 2**31 - 1]))
            height = draw(st.sampled_from([0, 1, 5, 100, 10_000]))
            depth, colour = (
                draw(st.sampled_from([1, 2, 8, 16, 0, 3])),
                draw(st.sampled_from([0, 2, 3, 4, 6, 1])),
            )
            chunks[0] = (
                b"IHDR",
                struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, draw(st.integers(0, 2))),
            )
        elif way == "edit":
            chunks[i] = (name, draw(damaged(data)) if data else b"x")
        elif way == "double":
            chunks.insert(i, chunks[i])
        elif way == "gone" and len(chunks) > 1:
            del chunks[i]
        else:
            kind = draw(
                st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"acTL", b"fdAT", b"gAMA"])
            )
            chunks.insert(i, (kind, draw(st.sampled_from([b"", b"\0" * 7, b"x\0\0" + _BOMB, _BOMB]))))
    return content[:8] + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
