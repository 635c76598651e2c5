"""Charts that several pages show, and the layout of all charts. Plotly is imported only in `charts*`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.anatomy import BLOCK_TITLES, of_blocks, told_by_block
from analysis.vit import Architecture
from app.wording import chart_text
from pruning.runs import Metrics

ATTENTION, MLP, OTHER = "#14907a", "#e0a030", "#8a9690"
KEPT, REMOVED, ACCENT = "#14907a", "rgba(138, 150, 144, 0.32)", "#d2604f"
CONFIG = {"displayModeBar": False, "scrollZoom": False, "doubleClick": False}

Figure = Any  # Plotly has no types


def styled(figure: Figure, height: int, **layout: Any) -> Figure:
    """Give a figure the margins, legend and axes that all charts share."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "title": None},
        hoverlabel={"font_size": 13},
        dragmode=False,
        **layout,
    )
    figure.update_xaxes(fixedrange=True, automargin=True, title_standoff=8)
    figure.update_yaxes(fixedrange=True, automargin=True, title_standoff=8, rangemode="tozero")
    return figure


def width_plots(
    names: Sequence[str], depth: int, traces: Callable[[str], Sequence[Any]], **layout: Any
) -> Figure:
    """Plots of widths against blocks, two in a row.

    `traces` gives those of one width, by the same names for each.
    """
    drawn = []
    for place, name in enumerate(names):
        axis = "" if place == 0 else place + 1
        for trace in traces(name):
            hover = f"block %{{x}}: %{{y:,}}<extra>{trace.name}</extra>"
            trace.update(showlegend=place == 0, legendgroup=trace.name, hovertemplate=hover)
            trace.update(xaxis=f"x{axis}", yaxis=f"y{axis}")
            drawn.append(trace)
    return go.Figure(drawn, _width_layout(tuple(names), depth, tuple(layout.items())))


@cache
def _width_layout(names: tuple[str, ...], depth: int, layout: tuple[tuple[str, Any], ...]) -> Any:
    """What plots of widths share; it takes several times as long as their bars, which follow a slider."""
    rows = -(-len(names) // 2)
    figure = make_subplots(
        rows,
        2,
        subplot_titles=[BLOCK_TITLES[name] for name in names],
        specs=[[{}, {} if 2 * row + 1 < len(names) else None] for row in range(rows)],
        vertical_spacing=0.4 / rows,
        horizontal_spacing=0.09,
    )
    figure.update_xaxes(dtick=1 if depth <= 8 else 2 if depth <= 12 else 4, tickangle=0)  # fits a phone
    figure.update_xaxes(title="block", row=rows)
    figure.update_yaxes(nticks=5)
    figure.update_annotations(font_size=13)
    figure = styled(figure, 195 * rows, bargap=0.2, **dict(layout))
    return figure.update_layout(legend={"y": 1 + 0.18 / rows, "x": 1, "xanchor": "right"}, margin_t=46).layout


def widths(before: Architecture, after: Architecture) -> Figure:
    """The widths of every block after pruning, in front of those before."""

    def bars(name: str) -> list[Any]:
        shown = ((before, REMOVED, "before"), (after, KEPT, "after"))
        return [
            go.Bar(
                x=list(range(arch.depth)),
                y=of_blocks(arch, name),
                marker_color=tint,
                name=label,
            )
            for arch, tint, label in shown
        ]

    return width_plots(told_by_block((before, after)), before.depth, bars, barmode="overlay")


CURVES = {
    "loss": "Loss",
    "top1": "Top-1 on held-out images, %",
    "cosine": "Cosine with the teacher, held-out images",
    "primal_residual": "Distance from structure, |W − Z| / |W|",
    "exchanged": "Groups of weights exchanged, %",
}


def curves(metrics: Metrics, dense: float | None) -> Figure | None:
    """The curves of a training so far, a plot for each, two in a row; `dense` is the dense model's top-1.

    None as long as there is nothing to draw.
    """
    shown = [name for name in CURVES if name in metrics.names]
    if not shown:
        return None
    rows, columns = -(-len(shown) // 2), min(2, len(shown))
    titles = [CURVES[name] for name in shown]
    figure = make_subplots(rows, columns, subplot_titles=titles, vertical_spacing=0.28)
    places = {name: {"row": i // 2 + 1, "col": i % 2 + 1} for i, name in enumerate(shown)}
    for name in shown:
        scale = 100 if name in ("top1", "exchanged") else 1
        steps, values, phases = _concatenated(metrics, name)
        figure.add_scatter(
            x=steps,
            y=[scale * value for value in values],
            customdata=phases,
            mode="lines+markers" if len(values) < 40 else "lines",
            line={"color": KEPT, "width": 2},
            name=CURVES[name],
            hovertemplate="%{y:.4g} after %{x:,} steps<br>%{customdata}<extra></extra>",
            showlegend=False,
            **places[name],
        )
    figure = styled(figure, 280 * rows)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(title="step", rangemode="tozero")
    if "top1" in shown:
        place = places["top1"]
        figure.update_yaxes(rangemode="normal", **place)
        if dense is not None:
            line = {"color": ACCENT, "width": 1.5, "dash": "dash"}
            figure.add_hline(
                100 * dense, line=line, annotation_text="dense", annotation_position="top left", **place
            )
    return figure


def _concatenated(metrics: Metrics, name: str) -> tuple[list[int], list[float], list[str]]:
    """A curve through all phases of a run: steps, counted on from phase to phase, values, and phases.

    The loss is that of the task alone, where a run of an earlier version added a growing penalty.
    """
    steps: list[int] = []
    values: list[float] = []
    phases: list[str] = []
    before = 0
    for what in metrics.phases:
        task = "task_loss" if name == "loss" and metrics.curve("task_loss", what)[0] else name
        own, figures = metrics.curve(task, what)
        steps += [before + step for step in own]
        values += figures
        phases += [chart_text(what)] * len(own)
        before += max(point.step for point in metrics.points if point.what == what)
    return steps, values, phases
