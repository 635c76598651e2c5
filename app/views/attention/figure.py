"""Pictures with titles, colour scales and a caption as one figure, for a paper or a talk: PNG, PDF and SVG.

A figure is laid out once, as pictures and lines of text at places, and then drawn in each format. PNG and PDF
are drawn with Pillow's own font, which has Latin letters only; an SVG leaves the font to its reader.
"""

from __future__ import annotations

import textwrap
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont

from app.parts import pictures
from pruning.wording import NBSP, printable

SIDE, GAP, MARGIN = 560, 32, 24  # pixels: longer side of a picture, between pictures, around all
TITLE, SMALL = 26, 20  # pixels: size of letters
BAR = 12  # pixels: height of a colour scale
DPI = 300
INK = "#17231f"
FORMATS = {"png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf"}


@dataclass(frozen=True, eq=False)
class Panel:
    """A picture with a title. `scale` are the lowest and the highest value of a map, and its palette."""

    title: str
    picture: Image.Image
    scale: tuple[float, float, str] | None = None


@dataclass(frozen=True, eq=False)
class _Picture:
    x: int
    y: int
    image: Image.Image


@dataclass(frozen=True)
class _Text:
    x: int
    y: int
    text: str
    size: int
    at_end: bool = False  # whether x is where the text ends


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure that is laid out: `file` draws it."""

    width: int
    height: int
    items: tuple[_Picture | _Text, ...]

    def file(self, kind: str) -> bytes:
        """The content of a file of this format, one of `FORMATS`."""
        if kind == "svg":
            return self._svg().encode()
        content = BytesIO()
        if kind == "pdf":
            self._image().save(content, "PDF", resolution=DPI)
        else:
            self._image().save(content, "PNG", dpi=(DPI, DPI))
        return content.getvalue()

    def _image(self) -> Image.Image:
        page = Image.new("RGB", (self.width, self.height), "white")
        pen = ImageDraw.Draw(page)
        for item in self.items:
            if isinstance(item, _Picture):
                page.paste(item.image, (item.x, item.y))
            else:
                font = ImageFont.load_default(item.size)
                pen.text((item.x, item.y), item.text, INK, font, anchor="rs" if item.at_end else "ls")
        return page

    def _svg(self) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" fill="{INK}">']
        parts.append(f'<rect width="{self.width}" height="{self.height}" fill="white"/>')
        for item in self.items:
            place = f'x="{item.x}" y="{item.y}"'
            if isinstance(item, _Picture):
                data = b64encode(pictures.png(item.image)).decode()
                shape = f'width="{item.image.width}" height="{item.image.height}"'
                parts.append(f'<image {place} {shape} href="data:image/png;base64,{data}"/>')
            else:
                anchor = ' text-anchor="end"' if item.at_end else ""
                parts.append(f'<text {place} font-size="{item.size}"{anchor}>{escape(item.text)}</text>')
        return "\n".join([*parts, "</svg>\n"])


# what Pillow's font has no letter for
_WORDS = {NBSP: " ", "✓": "(right)", "✗": "(wrong)", "→": "to", "…": "..."}


def _words(text: str) -> str:
    """Text on one line, in letters that every format has."""
    for sign, word in _WORDS.items():
        text = text.replace(sign, word)
    return printable(text)


def compose(panels: Sequence[Panel], caption: str, columns: int = 4) -> Figure:
    """Lay panels out in rows, with the caption below all of them."""
    shown = [pictures.enlarge(panel.picture, SIDE) for panel in panels]
    wide, high = max(one.width for one in shown), max(one.height for one in shown)
    below = GAP + (BAR + SMALL if any(panel.scale for panel in panels) else 0)
    step = high + TITLE + below
    items: list[_Picture | _Text] = []
    for place, (panel, picture) in enumerate(zip(panels, shown, strict=True)):
        x = MARGIN + place % columns * (wide + GAP)
        y = MARGIN + place // columns * step
        items += _panel(panel, picture, x, y, wide)
    used, rows = min(len(panels), columns), -(-len(panels) // columns)
    width = 2 * MARGIN + used * (wide + GAP) - GAP
    y = MARGIN + rows * step
    lines = textwrap.wrap(_words(caption), max(20, int((width - 2 * MARGIN) / (0.54 * SMALL))))
    for line in lines:
        y += round(1.4 * SMALL)
        items.append(_Text(MARGIN, y, line, SMALL))
    return Figure(width, y + MARGIN, tuple(items))


def _panel(panel: Panel, picture: Image.Image, x: int, y: int, wide: int) -> list[_Picture | _Text]:
    top = y + TITLE + 8
    room = int(wide / (0.52 * TITLE))
    title = textwrap.shorten(_words(panel.title), room, placeholder=" ...") or _words(panel.title)[:room]
    items: list[_Picture | _Text] = [_Text(x, y + TITLE - 4, title, TITLE), _Picture(x, top, picture)]
    if panel.scale is not None:
        low, high, palette = panel.scale
        under = top + picture.height + 8
        items.append(_Picture(x, under, pictures.scale(palette, picture.width, BAR)))
        items.append(_Text(x, under + BAR + SMALL, f"{low:.2g}", SMALL))
        items.append(_Text(x + picture.width, under + BAR + SMALL, f"{high:.2g}", SMALL, at_end=True))
    return items


def animation(frames: Sequence[tuple[str, Image.Image]], milliseconds: int = 600) -> bytes:
    """A GIF that goes on for ever, each frame with its title above it.

    Raises:
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("an animation needs at least one frame")
    drawn = []
    for title, picture in frames:
        frame = Image.new("RGB", (picture.width, picture.height + TITLE + 12), "white")
        frame.paste(picture, (0, TITLE + 12))
        font = ImageFont.load_default(TITLE)
        ImageDraw.Draw(frame).text((8, TITLE), _words(title), INK, font, anchor="ls")
        drawn.append(frame)
    content = BytesIO()
    drawn[0].save(content, "GIF", save_all=True, append_images=drawn[1:], duration=milliseconds, loop=0)
    return content.getvalue()
