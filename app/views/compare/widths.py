"""The Compare page's widths of every block."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from analysis.anatomy import BLOCK_TITLES, of_blocks, told_by_block
from app import wording
from app.parts import charts
from app.views.compare import charts as compare_charts
from pruning.report import Comparison

ARROW = "→"  # from the dense model to the next one


def show(found: Comparison) -> None:
    """A chart and a table of all models."""
    st.plotly_chart(
        compare_charts.widths([(model.name, model.arch) for model in found.models]),
        config=charts.CONFIG,
        key="widths",
        alt="widths of every block in all models",
    )
    with st.container(key="widths-table"):
        st.table(_table(found), border="horizontal", alt="widths of every block")
    order = f" {ARROW} ".join(wording.plain(model.name) for model in found.models)
    embed = _cell([model.arch.embed_dim for model in found.models])
    st.caption(
        f"{order} where they differ. Query-key pairs and value channels are counted per head. "
        f"Residual channels: {embed}."
    )
    if any(model.arch.merges for model in found.models):
        st.caption("Tokens merge within a block, so that the next one is given fewer.")


def _table(found: Comparison) -> pd.DataFrame:
    """A row for each block, a column for each structure, so that it fits a phone.

    The widths of all models stand in one cell, or only one of them where all are alike.
    """
    told = told_by_block(model.arch for model in found.models)
    columns = {BLOCK_TITLES[width].removesuffix(" per head"): _column(found, width) for width in told}
    table = pd.DataFrame(columns)
    return table.set_axis(pd.Index(map(str, table.index), name="Block"))


def _column(found: Comparison, width: str) -> list[str]:
    rows = zip(*(of_blocks(model.arch, width) for model in found.models), strict=True)
    return [_cell(row) for row in rows]


def _cell(widths: Sequence[int]) -> str:
    shown = widths if len(set(widths)) > 1 else widths[:1]
    return f" {ARROW} ".join(f"{width:,d}" for width in shown)
