"""Charts of heads that can be clicked; most show one square for each head.

Blocks go from left to right, heads from top to bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app.parts.charts import ACCENT, CONFIG, Figure

Head = tuple[int, int]  # block, head

CLEAR = {"plot_bgcolor": "rgba(0,0,0,0)", "paper_bgcolor": "rgba(0,0,0,0)"}
LEFT, TOP, EDGE = 52, 52, 10  # pixels of margin: beside numbers of heads, of blocks, and without numbers


def squares(
    heads: Sequence[Head],
    size: float,
    hover: str,
    *,
    told: Sequence[Sequence[Any]] | None = None,
    text: Sequence[str] | None = None,
    font: dict[str, Any] | None = None,
    **marker: Any,
) -> Any:
    """A square of `size` pixels for each head, with what `marker` says of their colours.

    What is `told` of a head follows its block and number in Plotly's customdata, which `hover` shows.
    """
    more = told or [()] * len(heads)
    selection = {"marker": {"opacity": 1}}  # so that a click does not fade the others
    if font and "color" in font:
        selection["textfont"] = {"color": font["color"]}
    return go.Scatter(
        x=[block for block, _ in heads],
        y=[head for _, head in heads],
        mode="markers" if text is None else "markers+text",
        text=text,
        textfont=font,
        marker={"symbol": "square", "size": size, "line": {"width": 0}} | marker,
        selected=selection,
        unselected=selection,
        customdata=[[*head, *values] for head, values in zip(heads, more, strict=True)],
        hovertemplate=hover,
        showlegend=False,
    )


def frame(figure: Figure, head: Head, step: float) -> None:
    """A frame around one head; `step` is the pixels from one square to the next."""
    (x, y), half = head, 0.5 - 0.5 / step
    box = {"x0": x - half, "x1": x + half, "y0": y - half, "y1": y + half}
    line = {"color": ACCENT, "width": 3 if step > 12 else 2}
    figure.add_shape(type="rect", **box, line=line)


def _axes(figure: Figure, blocks: int, heads: int) -> None:
    """The axes of a grid of this many blocks, each of at most so many heads."""
    figure.update_xaxes(**_axis(blocks), range=[-0.5, blocks - 0.5], side="top")
    figure.update_yaxes(**_axis(heads), range=[heads - 0.5, -0.5])
    figure.update_layout(clickmode="event+select", dragmode=False, **CLEAR)


def _axis(count: int) -> dict[str, Any]:
    return {
        "tickvals": list(range(0, count, 1 if count <= 16 else 4)),
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
    }


def arranged(figure: Figure, blocks: int, heads: int, step: float, right: int = EDGE) -> Figure:
    """Lay a single grid out so that its cells are squares, with `right` pixels for a colour bar."""
    _axes(figure, blocks, heads)
    figure.update_xaxes(title={"text": "block", "standoff": 6})
    figure.update_yaxes(title={"text": "head", "standoff": 8})
    return figure.update_layout(
        width=step * blocks + LEFT + right,
        height=step * heads + TOP + EDGE,
        margin={"l": LEFT, "r": right, "t": TOP, "b": EDGE, "autoexpand": False},
    )


def show(figure: Figure, key: str, pick: Callable[[Head], None], alt: str, *, stretch: bool = False) -> None:
    """Show a chart on which a click on a head calls `pick` with it."""

    def clicked() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            block, head = points[0]["customdata"][:2]
            pick((int(block), int(head)))

    st.plotly_chart(
        figure,
        config=CONFIG,
        width="stretch" if stretch else "content",
        key=key,
        on_select=clicked,
        selection_mode="points",
        alt=alt,
    )
