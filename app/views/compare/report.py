"""The Compare page's report: the whole comparison in one file, for readers without the app."""

from __future__ import annotations

import streamlit as st

from app import wording
from app.progress_bar import progress_bar
from app.state import memo
from pruning.report import Comparison, make_report

CONTENT = (
    "Figures with intervals, widths of every block, thumbnails of changed predictions, maps before and "
    "after, calibration, latency, the trade-off of all runs, and the commands that make these models."
)


def show(found: Comparison) -> None:
    """A button that writes the report, and one that downloads it."""
    st.markdown(CONTENT)
    st.caption("One HTML file that opens in any browser, also offline. It contains some of the test images.")
    image = int(st.session_state.get("compare-image", 0))
    key = (tuple((model.source, model.name) for model in found.models), found.data, image)
    page = memo.recall("report", key)
    if page is None:
        if not st.button("Make the report", icon=":material/description:", key="make-report"):
            return
        with progress_bar() as progress:
            page = make_report(found, image, progress)
        memo.remember("report", key, lambda: page, keep=4)
        st.rerun()
    name = "-".join(model.name.replace(" ", "-") for model in found.others)
    st.download_button(
        f"Download, {wording.megabytes(len(page.encode()))}",
        page,
        f"prunescope-{name}.html",
        "text/html",
        icon=":material/download:",
        on_click="ignore",
        type="primary",
        key="download-report",
    )
