"""A small drawing for each term of the glossary, as SVG that can be read on light and dark grounds."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable, Sequence
from types import MappingProxyType

WIDTH, HEIGHT = 220, 76
MAIN, MARK, QUIET = "#14907a", "#e0a030", "#8a9690"
Cells = Collection[tuple[int, int]]


def data_uri(term: str) -> str:
    """The drawing of a term as an address that holds all of it."""
    return f"data:image/svg+xml;base64,{b64encode(svg(term).encode()).decode()}"


def svg(term: str) -> str:
    """The drawing of a term."""
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(DRAWINGS[term])}</svg>'


# ---- strokes


def _box(x: float, y: float, wide: float, high: float, fill: str = "none", line: str = QUIET) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="2" fill="{fill}" stroke="{line}"/>'
    )


def _grid(
    x: float, y: float, columns: int, rows: int, side: float, marked: Cells = (), colour: str = MARK
) -> str:
    """Cells in columns and rows, of which those at these places are marked."""
    return "".join(
        _box(x + side * c, y + side * r, side - 2, side - 2, colour if (c, r) in marked else "none")
        for c in range(columns)
        for r in range(rows)
    )


def _shades(x: float, y: float, rows: Sequence[Sequence[float]], side: float, colour: str = MAIN) -> str:
    """A map: cells that are the fuller, the greater their values."""
    return "".join(
        f'<rect x="{x + side * c:g}" y="{y + side * r:g}" width="{side - 1:g}" height="{side - 1:g}" '
        f'fill="{colour}" fill-opacity="{value:g}" stroke="{QUIET}" stroke-width="0.5"/>'
        for r, row in enumerate(rows)
        for c, value in enumerate(row)
    )


def _line(*points: tuple[float, float], colour: str = QUIET, wide: float = 1.5, dash: str = "") -> str:
    along = " ".join(f"{x:g},{y:g}" for x, y in points)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{along}" fill="none" stroke="{colour}" stroke-width="{wide:g}"{dashed}/>'


def _arrow(x: float, y: float, to_x: float, to_y: float, colour: str = QUIET) -> str:
    """A line with a head, to the right, up or down."""
    if to_y == y:
        head = (to_x - 5, to_y - 4), (to_x, to_y), (to_x - 5, to_y + 4)
    else:
        back = 5 if to_y < y else -5
        head = (to_x - 4, to_y + back), (to_x, to_y), (to_x + 4, to_y + back)
    return _line((x, y), (to_x, to_y), colour=colour) + _line(*head, colour=colour)


def _dot(x: float, y: float, radius: float = 5, fill: str = "none", line: str = QUIET) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{line}"/>'


def _text(x: float, y: float, words: str, size: int = 12) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="sans-serif" font-size="{size}" text-anchor="middle" '
        f'fill="{QUIET}">{words}</text>'
    )


def _bars(x: float, heights: Sequence[float], marked: Collection[int] = ()) -> str:
    """Bars on the ground line, of which some are marked."""
    return "".join(
        _box(x + 16 * i, 68 - high, 12, high, MARK if i in marked else MAIN) for i, high in enumerate(heights)
    )


def _axes() -> str:
    return _line((50, 8), (50, 68), (180, 68))


# ---- what is drawn several times

_MAP = (0.1, 0.2, 0.1), (0.3, 1.0, 0.5), (0.1, 0.6, 0.2)
_OTHER = (0.9, 0.3, 0.1), (0.4, 0.1, 0.1), (0.1, 0.1, 0.2)
_THIRD = (0.1, 0.1, 0.7), (0.1, 0.2, 0.8), (0.1, 0.1, 0.4)
_LIKE_MAP = (0.1, 0.3, 0.1), (0.2, 0.9, 0.6), (0.2, 0.5, 0.2)


def _neuron() -> Iterable[str]:
    left, middle, right = (
        [(x, y) for y in ys] for x, ys in ((60, (18, 38, 58)), (110, (8, 28, 48, 68)), (160, (18, 38, 58)))
    )
    for x, y in left + right:
        yield _line((x, y), middle[1], colour=MARK)
    for places, fills in ((left, {}), (middle, {1: MARK}), (right, {})):
        for i, (x, y) in enumerate(places):
            yield _dot(x, y, fill=fills.get(i, "none"))


DRAWINGS = MappingProxyType(
    {
        "Token": (
            _grid(20, 12, 3, 3, 18, {(1, 0)}),
            _arrow(84, 38, 112, 38),
            _grid(124, 14, 9, 5, 10, {(1, row) for row in range(5)}),
        ),
        "Patch": (_grid(30, 8, 4, 4, 15, {(2, 1)}), _arrow(98, 30, 130, 30), _box(142, 14, 44, 44, MARK)),
        "Class token": (
            _dot(30, 56, 9, MARK),
            _grid(50, 48, 8, 1, 18),
            _arrow(30, 44, 30, 16, MARK),
            _text(76, 20, "prediction"),
        ),
        "Block": (
            _grid(8, 28, 1, 3, 9),
            _arrow(22, 40, 40, 40),
            _box(44, 24, 66, 32),
            _text(77, 44, "attention"),
            _arrow(112, 40, 130, 40),
            _box(134, 24, 42, 32),
            _text(155, 44, "MLP"),
            _arrow(178, 40, 198, 40),
            _grid(204, 28, 1, 3, 9),
        ),
        "Head": (_shades(24, 14, _MAP, 16), _shades(86, 14, _OTHER, 16), _shades(148, 14, _THIRD, 16)),
        "Query-key pair": (
            _text(40, 27, "query"),
            _grid(66, 14, 7, 1, 18, {(3, 0)}),
            _line((129, 32), (129, 46), colour=MARK),
            _grid(66, 46, 7, 1, 18, {(3, 0)}),
            _text(40, 59, "key"),
        ),
        "Value channel": (
            _grid(24, 8, 2, 5, 12, {(0, 2), (1, 2)}),
            _arrow(56, 37, 150, 37, MARK),
            _grid(162, 8, 1, 5, 12, {(0, 2)}),
        ),
        "MLP neuron": tuple(_neuron()),
        "Residual stream": (
            _arrow(8, 58, 210, 58, MAIN),
            _box(40, 10, 52, 24),
            _text(66, 26, "attention", 10),
            _arrow(40, 58, 40, 36),
            _arrow(92, 34, 92, 54),
            _box(128, 10, 42, 24),
            _text(149, 26, "MLP", 10),
            _arrow(128, 58, 128, 36),
            _arrow(170, 34, 170, 54),
        ),
        "GMACs": (_text(110, 34, "a × b + c", 20), _text(110, 60, "1 000 000 000 times")),
        "Attention map": (
            _shades(
                78,
                6,
                ((0.0, 0.1, 0.2, 0.1), (0.1, 0.6, 1.0, 0.2), (0.1, 0.4, 0.7, 0.1), (0, 0.1, 0.1, 0)),
                16,
            ),
        ),
        "Rollout": (
            _shades(12, 20, _OTHER, 12),
            _text(60, 42, "×"),
            _shades(72, 20, _THIRD, 12),
            _text(120, 42, "×"),
            _shades(132, 20, _LIKE_MAP, 12),
            _text(178, 42, "="),
            _shades(188, 24, _MAP, 9, MARK),
        ),
        "Class relevance": (
            _shades(16, 14, _MAP, 16),
            _text(78, 42, "×"),
            _shades(92, 14, _LIKE_MAP, 16, QUIET),
            _text(154, 42, "="),
            _shades(166, 14, _MAP, 16, MARK),
        ),
        "Criterion": (_line((56, 68), (170, 68)), _bars(62, (54, 46, 38, 30, 14, 8), {4, 5})),
        "Structured pruning": (
            _grid(20, 12, 6, 4, 14, {(column, row) for column in (1, 4) for row in range(4)}),
            _arrow(110, 38, 136, 38),
            _grid(148, 12, 4, 4, 14),
        ),
        "Budget": (
            _line((40, 22), (186, 22), colour=MARK, dash="5 4"),
            _line((56, 68), (170, 68)),
            _bars(62, (40, 34, 44, 28, 36, 42)),
        ),
        "Sensitivity": (
            _axes(),
            _line((56, 62), (90, 60), (120, 54), (145, 40), (165, 12), colour=MAIN, wide=2.5),
        ),
        "Calibration images": (
            _grid(20, 20, 4, 2, 20, {(c, r) for c in range(4) for r in range(2)}, MAIN),
            _line((110, 8), (110, 68), dash="4 4"),
            _grid(124, 20, 4, 2, 20),
        ),
        "Calibration error": (
            _axes(),
            _line((50, 68), (170, 8), dash="4 4"),
            _box(66, 56, 22, 12, MAIN),
            _box(96, 40, 22, 28, MAIN),
            _box(126, 34, 22, 34, MAIN),
            _line((137, 34), (137, 24), colour=MARK, wide=3),
        ),
        "Recovery": (
            _axes(),
            _line((50, 16), (180, 16), dash="5 4"),
            _line((56, 56), (80, 34), (110, 25), (145, 20), (175, 19), colour=MAIN, wide=2.5),
        ),
        "Dense model": (_grid(68, 8, 6, 4, 15, {(c, r) for c in range(6) for r in range(4)}, MAIN),),
        "Top-1": (
            _grid(40, 26, 7, 1, 20, {(c, 0) for c in range(7) if c != 4}, MAIN),
            _line((124, 28), (134, 42), colour=MARK, wide=2.5),
            _line((134, 28), (124, 42), colour=MARK, wide=2.5),
        ),
        "95 % interval": (
            _line((50, 38), (170, 38), colour=MAIN, wide=2.5),
            _line((50, 28), (50, 48), colour=MAIN, wide=2.5),
            _line((170, 28), (170, 48), colour=MAIN, wide=2.5),
            _dot(106, 38, 6, MARK),
        ),
        "CKA": (
            *(_dot(x, y, 4, MAIN) for x, y in ((24, 50), (40, 24), (62, 32), (70, 58))),
            _text(108, 44, "≈", 22),
            *(_dot(x, y, 4, MARK) for x, y in ((140, 24), (168, 12), (186, 34), (168, 62))),
        ),
        "k-NN top-1": (
            *(_line((110, 38), place, colour=MARK) for place in ((86, 26), (92, 56), (134, 24))),
            *(_dot(x, y, 5, MAIN) for x, y in ((86, 26), (92, 56), (62, 44))),
            *(_dot(x, y, 5) for x, y in ((134, 24), (160, 50), (176, 30))),
            _dot(110, 38, 6, MARK),
        ),
        "Agreement": (
            _grid(40, 14, 7, 1, 20, {(1, 0), (4, 0), (5, 0)}, MAIN),
            _grid(40, 42, 7, 1, 20, {(1, 0), (4, 0)}, MAIN),
            _box(138, 10, 22, 54, line=MARK),
        ),
        "Attention preservation": (
            _shades(36, 10, _MAP, 18),
            _text(110, 44, "≈", 22),
            _shades(130, 10, _LIKE_MAP, 18),
        ),
        "Pareto front": (
            _axes(),
            _line((66, 56), (92, 34), (124, 20), (164, 14), colour=MAIN),
            *(_dot(x, y, 4, MAIN) for x, y in ((66, 56), (92, 34), (124, 20), (164, 14))),
            *(_dot(x, y, 4) for x, y in ((110, 48), (140, 40), (160, 30))),
        ),
        "Bundle": (
            _line((60, 16), (92, 16), (98, 24), (160, 24), (160, 68), (60, 68), (60, 16)),
            _box(74, 34, 22, 24, MAIN),
            _line((106, 38), (148, 38)),
            _line((106, 47), (140, 47)),
            _line((106, 56), (148, 56)),
        ),
    }
)
