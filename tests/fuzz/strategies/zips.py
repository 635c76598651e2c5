"""Zips of images with names, sizes, flags and contents that no sane program writes."""

from __future__ import annotations

import io
import re
import warnings
import zipfile

from hypothesis import strategies as st

from tests.fuzz.cases import Content
from tests.fuzz.strategies.images import image_file
from tests.fuzz.strategies.raw_bytes import altered, damaged
from tests.fuzz.strategies.texts import NAMES

ENTRIES = (
    *(
        "circle/0.jpg",
        "circle/1.jpg",
        "square/0.jpg",
        "set/circle/2.jpg",
        "3.jpg",
        "circle/",
        "circle",
        "a/b/c.png",
    ),
    *(
        "../circle/0.jpg",
        "/circle/0.jpg",
        "C:\\circle\\0.jpg",
        "circle\\0.jpg",
        "circle/../../0.jpg",
        "./x/0.jpg",
    ),
    *(".hidden/0.jpg", "__MACOSX/circle/0.jpg", "circle/in.zip", "x" * 4000 + "/0.jpg", "0/0.jpg", "²/0.jpg"),
    *("a/" * 2000 + "0.jpg", "١/0.jpg", "9" * 5000 + "/0.jpg"),
    *(f"{name}/0.jpg" for name in NAMES[:14]),
)


@st.composite
def zip_file(draw: st.DrawFn, valid: bytes) -> Content:
    """The content of a zip file; `valid` is that of an honest one."""
    if draw(st.integers(0, 4)) == 0:
        return draw(altered(valid))
    written = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as archive:
        warnings.simplefilter("ignore")  # about a name that stands there twice
        for name in draw(st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=6)):
            way = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
            content = draw(image_file())
            what = (
                content if isinstance(content, bytes) else draw(st.sampled_from([valid, b"\0" * 1_500_000]))
            )
            entry = zipfile.ZipInfo(name.encode("utf-8", "replace").decode(), (1980, 1, 1, 0, 0, 0))
            entry.external_attr = draw(st.sampled_from([0, 0o120777 << 16, 0o644 << 16, 0x10]))
            archive.writestr(entry, what, way)
    packed = bytearray(written.getvalue())
    if draw(st.booleans()):
        _edit_directory(draw, packed)
    return draw(damaged(bytes(packed))) if draw(st.integers(0, 4)) == 0 else bytes(packed)


def _edit_directory(draw: st.DrawFn, packed: bytearray) -> None:
    """Claim something else of one entry: encrypted, another method or size, a name that is not UTF-8."""
    starts = [found.start() for found in re.finditer(rb"PK\x01\x02", packed)]
    start = draw(st.sampled_from(starts))
    field, size = draw(
        st.sampled_from([(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (42, 4), (28, 2), (46, 1)])
    )
    value = draw(st.sampled_from([0, 1, 0x801, 9, 12, 2**31, 2**32 - 1, 0xFF]))
    packed[start + field : start + field + size] = (value % 256**size).to_bytes(size, "little")
