"""The chart of the Attention page: heads against an object."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.parts.charts import ACCENT, Figure

_CLEAR = "rgba(0,0,0,0)"
CELL = 44  # pixels of a head in the grid of numbers
# light enough that the numbers on them are read in both themes
SHADES = ((0.0, "rgba(27, 154, 128, 0.06)"), (1.0, "rgba(27, 154, 128, 0.6)"))


def on_object(
    shares: Sequence[Sequence[float]],
    pointing: Sequence[Sequence[float]],
    chosen: tuple[int, int] | None,
) -> Figure:
    """Every head's share of attention on the object, in percent: blocks from left to right.

    `pointing` is the share of images whose peak lies on the object, told when the pointer is there.
    """
    places = [(block, head) for block, heads in enumerate(shares) for head in range(len(heads))]
    values = [100 * shares[block][head] for block, head in places]
    columns, rows = len(shares), max(map(len, shares))
    side = min(CELL, 212 // columns)
    figure = go.Figure(
        go.Scatter(
            x=[block for block, _ in places],
            y=[head for _, head in places],
            mode="markers+text" if side >= 28 else "markers",
            text=[f"{value:.0f}" for value in values],
            textfont={"size": 12},
            marker={
                "symbol": "square",
                "size": side - 3,
                "color": values,
                "colorscale": SHADES,
                "cmin": 0,
                "cmax": max(*values, 1.0),
                "line": {"width": 0},
            },
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
            customdata=[[*place, 100 * pointing[place[0]][place[1]]] for place in places],
            hovertemplate=(
                "block %{customdata[0]}, head %{customdata[1]}<br>%{text} % of its attention on the object"
                "<br>peak on the object: %{customdata[2]:.0f} %<extra></extra>"
            ),
        )
    )
    if chosen is not None:
        block, head = chosen
        frame = {"x0": block - 0.48, "x1": block + 0.48, "y0": head - 0.48, "y1": head + 0.48}
        figure.add_shape(type="rect", **frame, line={"color": ACCENT, "width": 3})
    common = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": "", "dtick": 1}
    figure.update_xaxes(
        **common, range=[-0.55, columns - 0.45], side="top", title={"text": "block", "standoff": 8}
    )
    figure.update_yaxes(**common, range=[rows - 0.45, -0.55], title={"text": "head", "standoff": 4})
    left, top = 52, 52
    return figure.update_layout(
        width=columns * side + left + 12,
        height=rows * side + top + 12,
        margin={"l": left, "r": 8, "t": top, "b": 8},
        clickmode="event+select",
        dragmode=False,
        plot_bgcolor=_CLEAR,
        paper_bgcolor=_CLEAR,
    )
