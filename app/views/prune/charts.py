"""The chart of the Prune page: what budgets of every size are predicted to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from app.parts.charts import ACCENT, KEPT, OTHER, Figure, styled
from app.wording import chart_text

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
    figure = go.Figure()
    figure.add_scatter(
        x=[gmacs for gmacs, _ in line],
        y=[loss for _, loss in line],
        mode="lines",
        line={"color": KEPT, "width": 2},
        hovertemplate=hover,
        name="best widths found",
    )
    if here is not None:
        figure.add_scatter(
            x=[here[0]],
            y=[here[1]],
            mode="markers",
            marker={"size": 13, "color": ACCENT, "symbol": "diamond"},
            hovertemplate=hover,
            name="your choice",
        )
    for name, gmacs in {"dense": dense, **presets}.items():
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
    figure = styled(figure, 280)
    top = max([here[1] if here else 0.0, min(_MOST, max(loss for _, loss in line)), 1e-6])
    figure.update_xaxes(title="GMACs for an image", rangemode="tozero")
    figure.update_yaxes(title="predicted damage", range=[-0.04 * top, 1.08 * top], nticks=5)
    return figure
