"""The chart of the Prune page: what budgets of every size are predicted to do, or expected to keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from app.parts.charts import ACCENT, KEPT, OTHER, Figure, styled
from app.wording import chart_text


class Dot(NamedTuple):
    """A tested model: its GMACs, its top-1, and how far below and above it the 95 % interval ends."""

    name: str
    gmacs: float
    top1: float
    low: float
    high: float
    rough: bool


_MOST = 1.0  # nats: a model that far from the dense one is of no use without training


def trade_off(
    line: Sequence[tuple[float, float]],
    here: tuple[float, float] | None,
    dense: float,
    presets: Mapping[str, float],
) -> Figure:
    """Predicted damage to the predictions against GMACs, for budgets of every size.

    Each point of `line`, and `here`, the budget that is chosen, are GMACs and a sum of KL divergences.
    `dense` and the published `presets` are marked by their GMACs alone.
    """
    hover = "predicted damage %{y:.3g} at %{x:.3f} GMACs<extra></extra>"
    figure = _curve(line, hover)
    _choose(figure, here, hover)
    _mark(figure, {"dense": dense, **presets})
    figure = styled(figure, 280)
    top = max([here[1] if here else 0.0, min(_MOST, max(loss for _, loss in line)), 1e-6])
    figure.update_xaxes(title="GMACs for an image", rangemode="tozero")
    figure.update_yaxes(title="predicted damage", range=[-0.04 * top, 1.08 * top], nticks=5)
    return figure


def expected(
    line: Sequence[tuple[float, float]],
    here: tuple[float, float | None] | None,
    tested: Sequence[Dot],
    dense: tuple[float, float],
    presets: Mapping[str, float],
) -> Figure:
    """Expected top-1 against GMACs: the `line` through what was `tested`, and the budget that is chosen.

    Top-1 is a fraction. Where nothing as damaged as the choice was tested, `here` has none of it.
    """
    hover = "about %{y:.1f} % expected at %{x:.3f} GMACs<extra></extra>"
    known = None if here is None or here[1] is None else (here[0], 100 * here[1])
    figure = _curve([(gmacs, 100 * top1) for gmacs, top1 in line], hover)
    for rough, name in ((False, "measured by a run"), (True, "rough trial")):
        dots = [dot for dot in tested if dot.rough is rough]
        if dots:
            _dots(figure, dots, name, rough)
    _choose(figure, known, hover)
    marks = {} if here is None or here[1] is not None else {"your choice": here[0]}
    _mark(figure, {"dense": dense[0], **presets, **marks})
    figure.add_scatter(
        x=[dense[0]],
        y=[100 * dense[1]],
        mode="markers",
        marker={"size": 8, "color": OTHER},
        hovertemplate="dense model: %{y:.1f} %<extra></extra>",
        showlegend=False,
    )
    figure = styled(figure, 300)
    lows = [dot.top1 + dot.low for dot in tested] + [top1 for _, top1 in line]
    highs = [dot.top1 + dot.high for dot in tested]
    low, high = 100 * max(0.0, min(lows)), 100 * min(1.0, max([dense[1], *highs]))
    room = max(1.0, 0.08 * (high - low))
    figure.update_xaxes(title="GMACs for an image", rangemode="tozero")
    figure.update_yaxes(title="expected top-1, %", range=[low - room, high + room], nticks=5)
    return figure


def _dots(figure: Figure, dots: Sequence[Dot], name: str, rough: bool) -> None:
    figure.add_scatter(
        x=[dot.gmacs for dot in dots],
        y=[100 * dot.top1 for dot in dots],
        error_y={
            "array": [100 * dot.high for dot in dots],
            "arrayminus": [-100 * dot.low for dot in dots],
            "symmetric": False,
            "thickness": 1.2,
            "width": 4,
        },
        customdata=[chart_text(dot.name) for dot in dots],
        mode="markers",
        marker={"size": 9, "color": KEPT, "symbol": "circle-open" if rough else "circle"},
        hovertemplate="%{customdata}: %{y:.1f} % at %{x:.3f} GMACs<extra></extra>",
        name=name,
    )


def _curve(line: Sequence[tuple[float, float]], hover: str) -> Figure:
    figure = go.Figure()
    figure.add_scatter(
        x=[gmacs for gmacs, _ in line],
        y=[value for _, value in line],
        mode="lines",
        line={"color": KEPT, "width": 2},
        hovertemplate=hover,
        name="best widths found",
    )
    return figure


def _choose(figure: Figure, here: tuple[float, float] | None, hover: str) -> None:
    if here is not None:
        figure.add_scatter(
            x=[here[0]],
            y=[here[1]],
            mode="markers",
            marker={"size": 13, "color": ACCENT, "symbol": "diamond"},
            hovertemplate=hover,
            name="your choice",
        )


def _mark(figure: Figure, marks: Mapping[str, float]) -> None:
    """Dotted lines at amounts of compute, with their names."""
    for name, gmacs in marks.items():
        figure.add_vline(gmacs, line={"color": OTHER, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=gmacs,
            y=1,
            yref="paper",
            text=chart_text(name),
            textangle=-90,
            xanchor="right",
            yanchor="top",
            showarrow=False,
            font={"size": 12},
        )
