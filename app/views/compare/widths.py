"""The Compare page's widths of every block."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import wording
from app.parts import charts
from app.views.compare import charts as compare_charts
from pruning.report import ComparedModel, Comparison

WIDTHS = ("heads", "qk", "v", "mlp")


def show(found: Comparison) -> None:
    """A chart and a table of all models."""
    st.plotly_chart(
        compare_charts.widths([(model.name, model.arch) for model in found.models]),
        config=charts.CONFIG,
        key="widths",
        alt="widths of every block in all models",
    )
    with st.container(key="widths-table"):
        st.dataframe(_table(found), width="stretch", height="content")
    embed = [f"{wording.plain(model.name)} {model.arch.embed_dim:,}" for model in found.models]
    st.caption(
        f"Query-key pairs and value channels are counted per head. Residual channels: {', '.join(embed)}."
    )


def _table(found: Comparison) -> pd.DataFrame:
    """A row for each block; for each structure a column for each model, so that changes are side by side."""
    columns = {
        (charts.WIDTH_TITLES[width].removesuffix(" per head"), model.name): _column(model, width)
        for width in WIDTHS
        for model in found.models
    }
    table = pd.DataFrame(columns)
    table.index.name = "block"
    return table


def _column(model: ComparedModel, width: str) -> pd.Series:
    return pd.Series([getattr(block, width) for block in model.arch.blocks], dtype="Int64")
