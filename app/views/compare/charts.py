"""The Compare page's charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, isnan
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from analysis.anatomy import of_blocks, told_by_block
from analysis.measure import Bin, Timing, paired_change, wilson
from analysis.vit import Architecture
from app import wording
from app.parts import charts_heads
from app.parts.charts import ACCENT, KEPT, OTHER, REMOVED, Figure, styled, width_plots
from app.wording import chart_text
from pruning.report import Trade

COLOURS = (OTHER, KEPT, "#e0a030", "#6a6fd8", "#d2604f")  # of the dense model, then of the others
VIRIDIS = "Viridis"
CELLS = 390, 30  # pixels: width of a grid of heads, and its largest cell


def widths(models: Sequence[tuple[str, Architecture]]) -> Figure:
    """Widths of every block: bars for the dense model, and lines for the others in front of them."""

    def traces(width: str) -> list[Any]:
        return [_widths_of(arch, width, name, index) for index, (name, arch) in enumerate(models)]

    return width_plots(told_by_block(arch for _, arch in models), models[0][1].depth, traces)


def _widths_of(arch: Architecture, width: str, name: str, index: int) -> Any:
    blocks, values = list(range(arch.depth)), of_blocks(arch, width)
    if index == 0:
        return go.Bar(x=blocks, y=values, name=chart_text(name), marker_color=REMOVED)
    line = {"color": COLOURS[index], "width": 2, "shape": "hvh"}
    return go.Scatter(
        x=blocks, y=values, name=chart_text(name), mode="lines+markers", line=line, marker={"size": 6}
    )


def calibration(models: Sequence[tuple[str, float, Sequence[Bin]]]) -> Figure:
    """A reliability diagram for each model, given its name, ECE and bins."""
    columns = min(len(models), 3)
    rows = ceil(len(models) / columns)
    titles = [f"{chart_text(name)}, ECE {100 * error:.1f} %" for name, error, _ in models]
    figure = make_subplots(
        rows,
        columns,
        subplot_titles=titles,
        shared_yaxes=True,
        horizontal_spacing=0.09,
        vertical_spacing=0.16,
    )
    for place, (_, _, bins) in enumerate(models):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        diagonal = {"color": ACCENT, "width": 1.2, "dash": "dash"}
        figure.add_scatter(
            x=[0, 100], y=[0, 100], mode="lines", line=diagonal, hoverinfo="skip", showlegend=False, **where
        )
        figure.add_trace(_bars(bins, COLOURS[place]), **where)
    figure = styled(figure, 270 * rows, bargap=0.06)
    figure.update_annotations(font_size=13)
    figure.update_xaxes(range=[0, 100], title="confidence, %", row=rows)
    figure.update_yaxes(range=[0, 103])
    figure.update_yaxes(title="accuracy, %", col=1)
    return figure


def _bars(bins: Sequence[Bin], colour: str) -> Figure:
    shown = [bin for bin in bins if bin.images]
    bounds = [wilson(bin.right, bin.images) for bin in shown]
    return go.Bar(
        x=[50 * (bin.low + bin.high) for bin in shown],
        y=[100 * bin.accuracy for bin in shown],
        width=[96 * (bin.high - bin.low) for bin in shown],
        marker_color=colour,
        marker_opacity=0.75,
        error_y={
            "array": [100 * (high - bin.accuracy) for bin, (_, high) in zip(shown, bounds, strict=True)],
            "arrayminus": [100 * (bin.accuracy - low) for bin, (low, _) in zip(shown, bounds, strict=True)],
            "thickness": 1,
            "width": 2,
            "color": OTHER,
        },
        customdata=[[bin.images, 100 * bin.confidence] for bin in shown],
        hovertemplate="%{y:.0f} % right, %{customdata[1]:.0f} % confident<br>%{customdata[0]} images"
        "<extra></extra>",
        showlegend=False,
    )


def confusion_change(change: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """The change of the confusion matrix: true classes are rows, predicted classes are columns.

    It is coloured by what is better: more images on the diagonal, and fewer elsewhere.
    """
    better = [
        [value if true == predicted else -value for predicted, value in enumerate(row)]
        for true, row in enumerate(change)
    ]
    most = max((abs(value) for row in change for value in row), default=0) or 1
    shown = [chart_text(name) for name in names]
    figure = go.Figure(
        go.Heatmap(
            z=better,
            x=shown,
            y=shown,
            zmin=-most,
            zmax=most,
            colorscale=[[0, ACCENT], [0.5, "rgba(138, 150, 144, 0.12)"], [1, KEPT]],
            text=[[f"{value:+d}" if value else "" for value in row] for row in change],
            texttemplate="%{text}",
            customdata=change,
            hovertemplate="%{y} taken for %{x}: %{customdata:+d}<extra></extra>",
            showscale=False,
            xgap=2,
            ygap=2,
        )
    )
    figure = styled(figure, 120 + 24 * len(names))
    title = "predicted"
    figure.update_xaxes(side="bottom", tickangle=-45, title=title, showgrid=False)
    figure.update_yaxes(autorange="reversed", title="true class", rangemode="normal", showgrid=False)
    return figure


def preserved(values: Sequence[Sequence[float]], chosen: tuple[int, int]) -> Figure:
    """A square for every head of the dense model, coloured by preservation; hollow if it was removed."""
    blocks, most = len(values), max(map(len, values))
    step = min(CELLS[1], CELLS[0] // blocks)
    heads = [(block, head) for block, row in enumerate(values) for head in range(len(row))]
    known = [head for head in heads if not isnan(values[head[0]][head[1]])]
    removed = [head for head in heads if head not in known]
    found = [values[block][head] for block, head in known]
    where = "block %{x}, head %{y}: "
    bar = {"thickness": 8, "len": 1, "outlinewidth": 0, "nticks": 4, "xpad": 4}
    figure = go.Figure()
    figure.add_trace(
        charts_heads.squares(
            removed,
            step - 6,
            f"{where}removed<extra></extra>",
            symbol="square-open",
            color="rgba(138, 150, 144, 0.45)",
        )
    )
    figure.add_trace(
        charts_heads.squares(
            known,
            step - 3,
            f"{where}%{{customdata[2]:.3f}}<extra></extra>",
            told=[[value] for value in found],
            color=found,
            colorscale=VIRIDIS,
            cmin=0,
            cmax=1,
            colorbar=bar,
        )
    )
    if chosen in heads:
        charts_heads.frame(figure, chosen, step)
    return charts_heads.arranged(figure, blocks, most, step, right=60)


def mass_moved(models: Sequence[tuple[str, Sequence[tuple[int, int, float, float]]]]) -> Figure:
    """Each head's share of attention on the object, given as (block, head, before, after)."""
    figure = go.Figure()
    most = max((100 * value for _, points in models for *_, a, b in points for value in (a, b)), default=100)
    line = {"color": OTHER, "width": 1.2, "dash": "dash"}
    ends = [0, 1.05 * most]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=line, hoverinfo="skip", showlegend=False)
    for index, (name, points) in enumerate(models, 1):
        figure.add_scatter(
            x=[100 * before for *_, before, _ in points],
            y=[100 * after for *_, after in points],
            mode="markers",
            marker={"size": 12 - 2 * index, "color": COLOURS[index]},  # so that those behind stay visible
            name=chart_text(name),
            customdata=[[block, head] for block, head, *_ in points],
            hovertemplate="block %{customdata[0]}, head %{customdata[1]}: %{x:.1f} → %{y:.1f} %<extra/>",
        )
    figure = styled(figure, 340)
    figure.update_xaxes(title="on the object in the dense model, %", range=ends)
    figure.update_yaxes(title="in the smaller model, %", range=ends)
    return figure


def latency(by_batch: Mapping[int, Sequence[tuple[str, Timing]]]) -> Figure:
    """Milliseconds per image: median and p10 to p90 of every model, in a group for each batch size.

    Each timing is that of the model against the dense one, the first; the other bars name their speed-up.
    """
    figure = go.Figure()
    names = [name for name, _ in next(iter(by_batch.values()))]
    for index, name in enumerate(names):
        timings = [dict(rows)[name] for rows in by_batch.values()]
        times = [timing.a_ms for timing in timings]
        per = [1 / batch for batch in by_batch]
        figure.add_bar(
            x=[f"batch {batch}" for batch in by_batch],
            y=[time.p50 * share for time, share in zip(times, per, strict=True)],
            error_y={
                "array": [(t.p90 - t.p50) * share for t, share in zip(times, per, strict=True)],
                "arrayminus": [(t.p50 - t.p10) * share for t, share in zip(times, per, strict=True)],
                "thickness": 1.4,
                "width": 3,
                "color": "#59635f",  # visible on white, on black and on the bars
            },
            marker_color=COLOURS[index],
            name=chart_text(name),
            customdata=["" if index == 0 else f"<br>{wording.speedup(timing)}" for timing in timings],
            hovertemplate=f"%{{y:.2f}} ms per image%{{customdata}}<extra>{chart_text(name)}</extra>",
        )
    figure = styled(figure, 300, barmode="group", bargap=0.25)
    figure.update_yaxes(title="ms per image, p10 to p90")
    return figure


def devices(names: Sequence[str], rows: Sequence[tuple[str, int, bool, Sequence[float | None]]]) -> Figure:
    """Milliseconds per image on each device: a group of bars for each, one bar for each row of the table."""
    figure = go.Figure()
    for index, (model, batch, int8, times) in enumerate(rows):
        label = f"{chart_text(model)}, batch {batch}{', int8' if int8 else ''}"
        figure.add_bar(
            x=[chart_text(name) for name in names],
            y=[None if time is None else time / batch for time in times],
            marker_color=COLOURS[index % len(COLOURS)],
            name=label,
            hovertemplate=f"%{{y:.2f}} ms per image<extra>{label}</extra>",
        )
    figure = styled(figure, 300, barmode="group", bargap=0.25)
    figure.update_yaxes(title="ms per image", type="log")
    return figure


def pareto(trades: Sequence[Trade], front: Sequence[Trade], chosen: set[str], by: str) -> Figure:
    """Top-1 with its interval against GMACs, or against relative latency, and the Pareto front as steps."""
    shown = [trade for trade in trades if by == "gmacs" or trade.speedup is not None]
    figure = go.Figure()
    line = {"color": KEPT, "width": 1.5, "dash": "dot", "shape": "hv"}
    figure.add_scatter(
        x=[_cost(trade, by) for trade in front],
        y=[100 * trade.result.top1 for trade in front],
        mode="lines",
        line=line,
        name="Pareto front",
        hoverinfo="skip",
    )
    unit = " GMACs" if by == "gmacs" else " of the dense model's time"
    dense = next((trade for trade in trades if trade.dense), None)
    for trade in shown:
        told = f"{unit}{_change(trade, dense)}<extra>{chart_text(trade.name)}</extra>"
        result, ahead = trade.result, trade in front
        named = trade.name in chosen or ahead
        figure.add_scatter(
            x=[_cost(trade, by)],
            y=[100 * result.top1],
            error_y={
                "array": [100 * (result.top1_high - result.top1)],
                "arrayminus": [100 * (result.top1 - result.top1_low)],
                "thickness": 1.2,
                "width": 4,
            },
            error_x=_error_of_cost(trade, by),
            mode="markers+text" if named else "markers",
            text=[chart_text(trade.name)],
            textposition="top right",
            cliponaxis=False,
            marker={
                "size": 13 if trade.name in chosen else 9,
                "color": OTHER if trade.dense else KEPT if ahead else "rgba(138, 150, 144, 0.6)",
                "symbol": "diamond" if trade.dense else "circle",
                "line": {"color": ACCENT, "width": 2 if trade.name in chosen and not trade.dense else 0},
            },
            hovertemplate=f"%{{y:.1f}} % at %{{x:.3f}}{told}",
            showlegend=False,
        )
    rings = {"symbol": "circle-open", "size": 12, "color": ACCENT, "line": {"width": 2}}
    figure.add_scatter(
        x=[None], y=[None], mode="markers", marker=rings, name="compared above", hoverinfo="skip"
    )
    title = "GMACs per image" if by == "gmacs" else "time of one forward pass, relative to the dense model"
    highest = max(_cost(trade, by) for trade in shown)
    figure = styled(figure, 380)
    figure.update_xaxes(title=title, range=[0, 1.16 * highest])
    lowest = min(100 * trade.result.top1_low for trade in shown)
    name = wording.accuracy_within(shown[0].result)
    figure.update_yaxes(title=f"{name}, % (95 % interval)", range=[max(lowest - 5, 0), 102])
    figure.update_yaxes(labelalias={f"{beyond:g}": "" for beyond in (100.5, 101, 101.5, 102)})
    return figure


def _cost(trade: Trade, by: str) -> float:
    return trade.gmacs if by == "gmacs" else 1 / (trade.speedup or 1.0)


def _error_of_cost(trade: Trade, by: str) -> dict[str, Any] | None:
    """The 95 % interval of relative latency, None where there is none."""
    if by == "gmacs" or trade.speedup_low is None or trade.speedup_high is None:
        return None
    cost = _cost(trade, by)
    return {
        "array": [1 / trade.speedup_low - cost],
        "arrayminus": [cost - 1 / trade.speedup_high],
        "thickness": 1.2,
        "width": 4,
    }


def _change(trade: Trade, dense: Trade | None) -> str:
    """For the hover text: the paired change of top-1 against the dense model."""
    if dense is None or trade is dense:
        return ""
    return f"<br>{wording.paired_points(paired_change(dense.result, trade.result))}"
