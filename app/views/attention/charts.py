"""The Attention page's chart: how much of each head's attention lies on the object."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from app.parts import charts_heads
from app.parts.charts import Figure

CELL = 44  # pixels of a head, at most
# light enough for the numbers on them to be readable in both themes
SHADES = ((0.0, "rgba(27, 154, 128, 0.06)"), (1.0, "rgba(27, 154, 128, 0.6)"))


def on_object(
    shares: Sequence[Sequence[float]],
    pointing: Sequence[Sequence[float]],
    chosen: tuple[int, int],
) -> Figure:
    """Every head's share of attention on the object, in percent.

    `pointing` is the share of images in which the peak lies on the object, shown under the pointer.
    """
    heads = [(block, head) for block, row in enumerate(shares) for head in range(len(row))]
    values = [100 * shares[block][head] for block, head in heads]
    columns, rows = len(shares), max(map(len, shares))
    step = min(CELL, 212 // columns)
    hover = (
        "block %{x}, head %{y}<br>%{marker.color:.0f} % of its attention on the object"
        "<br>peak on the object: %{customdata[2]:.0f} %<extra></extra>"
    )
    figure = go.Figure(
        charts_heads.squares(
            heads,
            step - 3,
            hover,
            told=[[100 * pointing[block][head]] for block, head in heads],
            text=[f"{value:.0f}" for value in values] if step >= 28 else None,  # else there is no room
            font={"size": 12},
            color=values,
            colorscale=SHADES,
            cmin=0,
            cmax=max(*values, 1.0),
        )
    )
    if chosen in heads:
        charts_heads.frame(figure, chosen, step)
    return charts_heads.arranged(figure, columns, rows, step)
