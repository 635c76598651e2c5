"""Bytes of a valid file, damaged; and what is no regular file in its place."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.fuzz.cases import Content, Special

specials = st.sampled_from(
    [
        Special("pipe"),
        Special("folder"),
        Special("nothing"),
        Special("link", "/dev/zero"),
        Special("link", "/nowhere"),
        Special("link", "."),
        Special("link", "circle"),
    ]
)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Cut off, changed in a few places, with a part left out, doubled or filled, or something else."""
    way = draw(st.sampled_from(["cut", "change", "change", "leave out", "double", "fill", "other", "longer"]))
    size = len(content)
    begin = draw(st.integers(0, size))
    end = min(size, begin + draw(st.sampled_from([1, 2, 4, 8, 100, 4096])))
    if way == "cut":
        return content[:begin]
    if way == "change":
        changed = bytearray(content)
        for place in draw(st.lists(st.integers(0, max(size - 1, 0)), min_size=1, max_size=6)):
            changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        return bytes(changed)
    if way == "leave out":
        return content[:begin] + content[end:]
    if way == "double":
        return content[:end] + content[begin:]
    if way == "fill":
        return content[:begin] + draw(st.sampled_from([b"\0", b"\xff", b"A"])) * (end - begin) + content[end:]
    if way == "longer":
        return content + draw(st.sampled_from([b"\0" * 100, b"\n", content[:1000]]))
    return draw(
        st.sampled_from([b"", b"\n", b"PK\x03\x04", b"\x80\x04.", b"\xff\xfe{}", b"[]", b"{}", b"\0" * 64])
    )


@st.composite
def altered(draw: st.DrawFn, content: bytes) -> Content:
    """Damaged bytes, or seldom something that is no regular file."""
    return draw(specials) if draw(st.integers(0, 9)) == 0 else draw(damaged(content))
