"""Read an image file of any common format as 8-bit RGB, or raise an error of one sentence."""

from __future__ import annotations

import io
import re
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError, features

from analysis.paths import open_regular, read_regular

MAX_BYTES = 256 * 2**20  # of one file
MAX_PIXELS = 64_000_000
MOST_GREY = 65535  # in a file of 16 bits
MAX_ASPECT = 100  # resizing the short side of an extremely narrow image to 224 would take gigabytes

# Pillow reads many more formats, some of which start other programs (EPS runs Ghostscript). These are
# the ones photos come in.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm"),
    # Pillow's own wheels read these two; other builds may not
    **({"JPEG2000": (".jp2", ".j2k", ".jpx")} if features.check("jpg_2000") else {}),
    **({"AVIF": (".avif",)} if features.check("avif") else {}),
}
EXTENSIONS = tuple(extension for extensions in FORMATS.values() for extension in extensions)


class BadImageError(ValueError):
    """A file cannot be read as an image; the message is one sentence for the user."""


def read_image(
    source: Path | BinaryIO | bytes, name: str | None = None, white: int = MOST_GREY
) -> Image.Image:
    """Read an image as RGB, rotated upright; of an animation, the first frame.

    Transparent parts become white. Greyscale of more than 8 bits is scaled from its full range
    (integers 0 to `white`, floats 0 to 1 or 0 to 255), or from minimum to maximum if values are
    outside it [ours]. Integers up to 65535 that are larger than a smaller `white` are white, too.
    A stream is read from its start and left open. `name` is the image's name in error messages, by default
    the file name.

    Raises:
        BadImageError: not an image, damaged, empty, larger than `MAX_PIXELS`, or with an aspect ratio
            above `MAX_ASPECT`.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source), name or "the image", white)
    if not isinstance(source, Path):
        return _read(source, name or Path(str(getattr(source, "name", "the image"))).name, white)
    name = name or source.name
    try:
        with open_regular(source, MAX_BYTES) as file:
            return _read(file, name, white)
    except OSError as error:
        raise BadImageError(f"{name} cannot be opened: {error.strerror}") from error


def _read(file: BinaryIO, name: str, white: int) -> Image.Image:
    with warnings.catch_warnings():
        # Pillow warns about large images and invalid metadata; size is checked here, metadata is harmless
        warnings.filterwarnings("ignore", module=r"PIL\b")
        image = _decode(file, name)
        orientation = _orientation(image)
        try:
            rgb = _to_rgb(image, name, white)
        except BadImageError:
            raise
        except Exception as error:  # some damage shows only when colours are converted
            raise BadImageError(_damaged(name, error)) from error
    rgb.info = {}
    rgb.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(rgb)


def _decode(file: BinaryIO, name: str) -> Image.Image:
    """The image with its pixels loaded, in the mode of the file."""
    try:
        image = Image.open(file, formats=tuple(FORMATS))
        _check_size(image, name)
        image.load()
        if image.mode in ("P", "PA") and not (image.palette and image.palette.palette):
            raise BadImageError(f"{name} is damaged or incomplete: its colours are indices without a palette")
        return image
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(_unidentified(file, name)) from error
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))  # Pillow's message has the number of pixels only
        size = f"{int(pixels[0]) / 1e6:.0f} megapixels" if pixels else "far more"
        raise BadImageError(_too_large(name, size)) from error
    except Exception as error:  # Pillow raises all kinds of errors on damaged files
        raise BadImageError(_damaged(name, error)) from error


def _damaged(name: str, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{name} is damaged or incomplete ({reason[:120]})"


def _check_size(image: Image.Image, name: str) -> None:
    short, long = sorted(image.size)
    if short * long > MAX_PIXELS:
        raise BadImageError(_too_large(name, f"{image.width} x {image.height}"))
    if long > MAX_ASPECT * short:
        raise BadImageError(
            f"{name} is too narrow: the long side of an image may be at most {MAX_ASPECT} times the "
            f"short side, got {image.width} x {image.height}"
        )


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large: an image may have at most {MAX_PIXELS // 10**6} megapixels, got {size}"


def _unidentified(file: BinaryIO, name: str) -> str:
    if file.seekable():
        file.seek(0)
        if not file.read(1):
            return f"{name} is empty"
    return f"{name} is not an image: its content cannot be read as any of {', '.join(FORMATS)}"


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except (ValueError, TypeError, LookupError, SyntaxError, OSError, struct.error):
        return 1  # damaged metadata: use the pixels as they are stored


def _to_rgb(image: Image.Image, name: str, most: int) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image, name, most)
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        rgba = image.convert("RGBA")
    except ValueError as error:
        raise BadImageError(
            f"{name} has colours of mode {image.mode}, which cannot be converted to RGB"
        ) from error
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _to_eight_bits(image: Image.Image, name: str, most: int) -> Image.Image:
    # convert("L") would clip everything above 255 to white
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise BadImageError(f"{name} has values that are not finite numbers")
    if image.mode != "F" and low >= 0 and high <= MOST_GREY:
        values = values.clip(max=most)
        high = min(high, most)
    for full in (1.0, 255.0) if image.mode == "F" else (float(most),):
        if low >= 0 and high <= full:
            low, high = 0.0, full
            break
    scaled = (values - low) * (255 / (high - low if high > low else 1.0))
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def greatest_grey(source: Path | bytes) -> int | None:
    """The greatest value of a greyscale image of more than 8 bits; None for other or unreadable images."""
    try:
        content = source if isinstance(source, bytes) else read_regular(source, MAX_BYTES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=tuple(FORMATS))
            if not image.mode.startswith("I"):
                return None
            _check_size(image, "the image")
            return int(np.asarray(image).max())
    except Exception:  # whoever reads the image as one says what is wrong with it
        return None
