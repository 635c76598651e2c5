"""The Heads page's charts: agreement of criteria, the graph of heads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.parts.charts import ACCENT, OTHER, Figure
from app.parts.charts_heads import CLEAR
from pruning.criteria import HEAD_MEASURES
from pruning.cut import Head, HeadLocks

GROUPS = ("#14907a", "#e0a030", "#6a6fd8", "#d2604f", "#3d8fd1", "#b05fa8", "#7d9a2c", "#8a6d4f")
KEEP_MARK, REMOVE_MARK = "✓", "✕"  # of locked heads
MARK_COLOURS = {KEEP_MARK: "#1fa35c", REMOVE_MARK: "#d2604f"}
_READABLE = {"color": "white", "shadow": "0 0 3px black, 0 0 2px black"}  # readable on any colour
_WIDTHS = 4  # widths that edges are drawn in


@dataclass(frozen=True)
class MarkedHeads:
    """All heads of a model, block by block, and which of them every chart marks."""

    names: tuple[Head, ...]
    chosen: Head
    locks: HeadLocks

    @property
    def marks(self) -> list[str]:
        """The sign of each head's lock, empty for heads without one."""
        marks = dict.fromkeys(self.locks.keep, KEEP_MARK) | dict.fromkeys(self.locks.remove, REMOVE_MARK)
        return [marks.get(head, "") for head in self.names]

    @property
    def size(self) -> tuple[int, int]:
        """The number of blocks, and of heads in the block that has most."""
        return 1 + max(block for block, _ in self.names), 1 + max(head for _, head in self.names)


def agreement(found: Mapping[str, Mapping[str, float]], chosen: str) -> Figure:
    """Spearman's rank correlation of each pair of criteria, as numbers on a diverging scale."""
    names = list(found)
    titles = [f"<b>{HEAD_MEASURES[n].title}</b>" if n == chosen else HEAD_MEASURES[n].title for n in names]
    rows = [[found[one][other] for other in names] for one in names]
    shown = [["" if math.isnan(rho) else f"{rho:z.2f}".replace("0.", ".", 1) for rho in row] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            z=[[None if math.isnan(rho) else rho for rho in row] for row in rows],
            x=titles,
            y=titles,
            text=shown,
            texttemplate="%{text}",
            textfont={"size": 10, "color": "white"},
            zmin=-1,
            zmax=1,
            colorscale=[[0, "#b8503f"], [0.5, "#7b8682"], [1, "#128069"]],
            showscale=False,
            xgap=2,
            ygap=2,
            hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
        )
    )
    common = {"fixedrange": True, "showgrid": False, "ticks": "", "automargin": True}
    figure.update_xaxes(**common, side="top", tickangle=-90)
    figure.update_yaxes(**common, autorange="reversed")
    margin = {"l": 8, "r": 8, "t": 8, "b": 8}
    return figure.update_layout(height=30 * len(names) + 150, margin=margin, dragmode=False, **CLEAR)


@dataclass(frozen=True)
class Drawing:
    """The graph of some heads: their places, values and groups, and the edges between them."""

    members: tuple[int, ...]  # of all heads
    places: Sequence[tuple[float, float]]
    values: Sequence[float]
    groups: Sequence[int]
    edges: Sequence[tuple[int, int, float]]  # places among the members, and similarity
    measure: str


def graph(heads: MarkedHeads, drawing: Drawing, height: int) -> Figure:
    """Heads as circles that can be clicked: large ones are important, those of a group have one colour."""
    figure = go.Figure()
    for edge in _edges(drawing):
        figure.add_trace(edge)
    few = len(drawing.members) <= 48
    names = [heads.names[head] for head in drawing.members]
    marks = [heads.marks[head] for head in drawing.members]
    sizes = _sizes(drawing, few)
    if heads.chosen in names:
        figure.add_trace(_halo(drawing.places[names.index(heads.chosen)], sizes[names.index(heads.chosen)]))
    line = [MARK_COLOURS.get(mark, "white") for mark in marks]
    figure.add_scatter(
        x=[x for x, _ in drawing.places],
        y=[y for _, y in drawing.places],
        mode="markers+text",
        text=[
            mark + (f"{name[0]}.{name[1]}" if few else "") for name, mark in zip(names, marks, strict=True)
        ],
        textfont={"size": 10} | _READABLE,
        marker={
            "size": sizes,
            "color": [GROUPS[group % len(GROUPS)] for group in drawing.groups],
            "line": {"color": line, "width": [3 if mark else 1 for mark in marks]},
            "opacity": 1,
        },
        selected={"marker": {"opacity": 1}, "textfont": {"color": "white"}},
        unselected={"marker": {"opacity": 1}, "textfont": {"color": "white"}},
        customdata=[
            [*name, value, group]
            for name, value, group in zip(names, drawing.values, drawing.groups, strict=True)
        ],
        hovertemplate="block %{customdata[0]}, head %{customdata[1]}: %{customdata[2]:.4g}, "
        f"group %{{customdata[3]}}<extra>{HEAD_MEASURES[drawing.measure].title}</extra>",
        showlegend=False,
    )
    hidden = {"visible": False, "fixedrange": True, "range": [-1.12, 1.12]}
    figure.update_xaxes(**hidden)
    figure.update_yaxes(**hidden)
    margin = {"l": 0, "r": 0, "t": 0, "b": 0}
    return figure.update_layout(
        height=height, margin=margin, dragmode=False, clickmode="event+select", **CLEAR
    )


def _halo(place: tuple[float, float], size: float) -> Any:
    """A ring around the head that is shown, at a distance, so that it is visible next to any colour."""
    ring = {"symbol": "circle-open", "size": size + 12, "color": ACCENT, "line": {"width": 3}}
    where = {"x": [place[0]], "y": [place[1]], "mode": "markers", "marker": ring}
    return go.Scatter(**where, hoverinfo="skip", showlegend=False)


def _edges(drawing: Drawing) -> list[Any]:
    """The edges in a few widths, as one trace for each: a trace for each edge would be slow."""
    if not drawing.edges:
        return []
    weights = [weight for _, _, weight in drawing.edges]
    low, high = min(weights), max(weights)
    classes: list[list[tuple[int, int]]] = [[] for _ in range(_WIDTHS)]
    for one, other, weight in drawing.edges:
        share = (weight - low) / (high - low) if high > low else 1.0
        classes[min(int(share * _WIDTHS), _WIDTHS - 1)].append((one, other))
    traces = []
    for number, pairs in enumerate(classes):
        x, y = ([drawing.places[end][axis] for pair in pairs for end in (*pair, pair[1])] for axis in (0, 1))
        breaks = range(2, len(x), 3)
        traces.append(
            go.Scatter(
                x=[None if i in breaks else value for i, value in enumerate(x)],
                y=[None if i in breaks else value for i, value in enumerate(y)],
                mode="lines",
                line={"width": 0.6 + 1.4 * number, "color": OTHER},
                opacity=0.3 + 0.15 * number,
                hoverinfo="skip",
                showlegend=False,
            )
        )
    return traces


def _sizes(drawing: Drawing, few: bool) -> list[float]:
    """Diameters by which areas grow with importance, from the least to the most important head."""
    low, high = min(drawing.values), max(drawing.values)
    least, most = (30, 54) if len(drawing.members) <= 12 else (17, 36) if few else (9, 24)
    turned = HEAD_MEASURES[drawing.measure].important < 0
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in drawing.values]
    return [least + (most - least) * math.sqrt(1 - share if turned else share) for share in shares]
