"""The Compare page: models side by side, in numbers and in pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from analysis.measure import paired_change
from app import wording
from app.glossary import meaning
from app.parts import damaged_runs, feedback
from app.state import address, comparison, session
from app.state.finished_runs import NumberedRun
from app.views.compare import latency as compare_latency
from app.views.compare import maps as compare_maps
from app.views.compare import objects as compare_objects
from app.views.compare import predictions as compare_predictions
from app.views.compare import report as compare_report
from app.views.compare import trade_off as compare_trade_off
from app.views.compare import widths as compare_widths
from pruning import runs
from pruning.jobs import BenchJob, Job, RecoverJob
from pruning.report import MAX_COMPARED, ComparedModel, Comparison, int8_columns
from pruning.wording import base_name

CHOSEN = "compare-runs"
COLUMN = 320  # pixels of a column of the figures, at most: further apart they are hard to read
TERMS = "Dense model", "Top-1", "95 % interval", "Agreement", "Calibration error", "GMACs"
FEATURE_TERMS = "Dense model", "k-NN top-1", "95 % interval", "CKA", "GMACs"

TABS: dict[str, Callable[[Comparison], None]] = {
    "Predictions": compare_predictions.show,
    "Maps": compare_maps.show,
    "Objects": compare_objects.show,
    "Calibration": compare_predictions.calibration,
    "Widths": compare_widths.show,
    "Latency": compare_latency.show,
    "All runs": compare_trade_off.show,
    "Report": compare_report.show,
}


def show() -> None:
    """Draw the page."""
    st.header("Compare", anchor=False)
    with feedback.sentences():
        _show()
    damaged_runs.show(Job, RecoverJob, BenchJob)


def _show() -> None:
    group, chosen = _choose()
    if not group:
        return
    if len(chosen) == 1:
        _outcome(group, chosen[0])
    if not chosen:
        st.info("Choose at least one model to compare with the dense one.", icon=":material/compare_arrows:")
        return
    found = comparison.comparison(group, chosen)
    with st.container(width=COLUMN * (1 + len(found.models)), key="table"):
        st.table(_table(found), border="horizontal", alt="figures of all models")
    st.caption(_legend(found), help=meaning(*(TERMS if found.classifies else FEATURE_TERMS)))
    _int8(found)
    names = [name for name in TABS if name != "Objects" or found.tested.rendered]
    if not found.classifies:
        names.remove("Calibration")
    for name, tab in zip(names, st.tabs(names, key="compare-tab", bind="query-params"), strict=True):
        if tab.open:
            with tab, st.container(key=f"tab-{name.lower().replace(' ', '-')}"), feedback.sentences():
                TABS[name](found)


def _outcome(group: list[NumberedRun], key: str) -> None:
    """What the one run that is compared won and lost."""
    run = next((run for run in group if run.key == key), None)
    if run is not None:
        before, after = run.finished.before, run.finished.after
        st.markdown(f"**{wording.outcome(paired_change(before, after), after.measure)}**")


# ---- choosing


def _choose() -> tuple[list[NumberedRun], list[str]]:
    """A group of runs and the keys of those chosen from it; both are empty if nothing was pruned yet."""
    _restore()
    groups = comparison.groups()
    if not groups:
        feedback.nothing_pruned()
        _open_folder()
        return [], []
    by_key = {run.key: place for place, group in enumerate(groups) for run in group}
    with st.container(horizontal=True, vertical_alignment="bottom", key="compare-choice"):
        place = _group(groups, by_key)
        chosen = [] if place is None else _models(groups[place])
        _open_folder()
    if place is None:
        name = wording.plain(base_name(session.choice().model))
        st.info(f"{name}, which is loaded, has no finished run yet. Choose another model above, or prune it.")
        feedback.link("prune", "Go to Prune", ":material/arrow_back:")
        return [], []
    address.write("runs", [_short(key) for key in chosen])
    return groups[place], chosen


def _restore() -> None:
    """Choose what was just opened, or what the address asks for; say which of it cannot be opened."""
    loaded = session.choice().named
    if st.session_state.get("compare loaded", loaded) != loaded:  # what was compared was another model's
        st.session_state.pop(CHOSEN, None)
    st.session_state["compare loaded"] = loaded
    if "compare opened" in st.session_state:
        st.session_state[CHOSEN] = st.session_state.pop("compare opened")
        _see_newest()
    keys = []
    for name in address.read_once("runs") or []:
        with feedback.sentences():
            keys.append(comparison.open_path(name if "/" in name else str(runs.runs_root() / name)))
    if keys:
        st.session_state[CHOSEN] = keys
        _see_newest()


def _see_newest() -> str | None:
    """The key of the newest run of the loaded model, or of what is compared, if it was not seen here yet."""
    chosen = st.session_state.get(CHOSEN, [])
    newest = next(
        (
            group[0].key
            for group in comparison.groups()
            if comparison.is_of_loaded(group) or any(run.key in chosen for run in group)
        ),
        None,
    )
    if newest is None or newest == st.session_state.get("compare seen"):
        return None
    st.session_state["compare seen"] = newest
    return newest


def _group(groups: list[list[NumberedRun]], by_key: dict[str, int]) -> int | None:
    """The group to compare in: that of a new run, else of the runs that are chosen, else of the loaded model.

    None if the loaded model has no finished run, until another model is chosen.
    """
    chosen: list[str] = st.session_state.get(CHOSEN, [])
    newest = _see_newest()
    if newest is not None:
        several = [key for key in chosen if by_key.get(key) == by_key[newest]] if len(chosen) > 1 else []
        st.session_state[CHOSEN] = list(dict.fromkeys([newest, *several]))[:MAX_COMPARED]
        st.session_state["compare-group"] = by_key[newest]
    elif any(key in by_key for key in chosen):
        st.session_state["compare-group"] = next(by_key[key] for key in chosen if key in by_key)
    kept = st.session_state.get("compare-group")
    if kept is not None and kept >= len(groups):
        kept = st.session_state.pop("compare-group")
    of_loaded = next((place for place, group in enumerate(groups) if comparison.is_of_loaded(group)), None)
    if len(groups) == 1 and 0 in (kept, of_loaded):
        return 0
    place: int | None = st.selectbox(
        "Dense model and images",
        range(len(groups)),
        index=of_loaded,
        placeholder="Choose a dense model",
        format_func=lambda place: comparison.group_title(groups[place]),
        key="compare-group",
        on_change=lambda: st.session_state.pop(CHOSEN, None),
        width=400,
    )
    return place


def _models(group: list[NumberedRun]) -> list[str]:
    titles = {run.key: run.title for run in group}
    titles |= {str(folder): f"Bundle {folder.name}" for folder in comparison.bundles()}
    before: list[str] | None = st.session_state.get(CHOSEN)
    chosen = [key for key in before or [] if key in titles][:MAX_COMPARED]
    st.session_state[CHOSEN] = chosen if chosen or before == [] else [group[0].key]
    picked: list[str] = st.multiselect(
        "Beside the dense model",
        list(titles),
        format_func=titles.__getitem__,
        key=CHOSEN,
        max_selections=MAX_COMPARED,
        wrap=True,
        persist_state="session",
        placeholder="Choose runs",
    )
    return picked


def _open_folder() -> None:
    with st.popover("Open a folder", icon=":material/folder_open:", key="compare-open"):
        path = st.text_input(
            "Path of a run folder or of a bundle", key="compare-path", persist_state="session"
        )
        with feedback.sentences():
            if st.button("Open", key="compare-open-button"):
                key = comparison.open_path(path)
                chosen = [other for other in st.session_state.get(CHOSEN, []) if other != key]
                st.session_state["compare opened"] = [*chosen[: MAX_COMPARED - 1], key]
                st.rerun()


def _short(key: str) -> str:
    """How the address names a run or a bundle: by its folder's name if that lies among the runs."""
    path = Path(key)
    return path.name if path.parent == runs.runs_root() else key


# ---- the figures


def _table(found: Comparison) -> pd.DataFrame:
    dense = found.dense
    columns = {wording.plain(model.name): _column(model, dense, found) for model in found.models}
    table = pd.DataFrame(columns)
    return table[(table != "").any(axis=1)]


def _column(model: ComparedModel, dense: ComparedModel, found: Comparison) -> dict[str, str]:
    result, other = model.result, model is not dense
    mine, theirs = model.cost, dense.cost

    def against(text: str, change: str | None) -> str:
        return f"{text} ({change or 'as before'})" if other else text

    start, classifies, change = model.start, found.classifies, wording.points(dense.result.top5, result.top5)
    like = {row: "" for other in found.others for row in wording.likeness(other.result)}
    column = {
        wording.accuracy_name(result): wording.percent(result.top1),
        "95 % interval": f"{100 * result.top1_low:.1f} to {100 * result.top1_high:.1f}{wording.NBSP}%",
        f"Change of {wording.accuracy_within(result)}": wording.paired_points(model.top1_change(dense))
        if other
        else "",
        "Measured": model.when,
        "Before fine-tuning": "" if start is None else wording.percent(start.top1),
        "Top-5": against(wording.percent(result.top5), change) if classifies else "",
        "Agreement with dense": wording.percent(model.agreement(dense).share) if other else "",
        **like,
        **wording.likeness(result),
        "Calibration error": wording.percent(model.ece) if classifies else "",
        "Parameters": against(wording.count(mine.params), wording.real_change(theirs.params, mine.params)),
        "Compute, GMACs": against(f"{mine.gmacs:,.4f}", wording.real_change(theirs.macs, mine.macs)),
        "Weights, float32": against(
            wording.megabytes(mine.bytes), wording.real_change(theirs.bytes, mine.bytes)
        ),
        "Weights, float16": wording.megabytes(mine.bytes // 2),
        "Stored in": wording.plain(model.dtype),
    }
    if found.timings is not None:
        for batch in sorted(found.timings.ms):
            time = found.timings.of(model.source, batch).p50
            timing = found.timings.between(model.source, dense.source, batch)
            column[f"Latency per image, batch {batch}"] = wording.milliseconds(time / batch)
            column[f"Speed-up, batch {batch}"] = wording.speedup(timing) if other else ""
    return column


def _int8(found: Comparison) -> None:
    """A column for each int8 file: its accuracy, size and time against the float file of the same model."""
    columns = {
        wording.plain(name): {wording.plain(row): wording.plain(figure) for row, figure in column.items()}
        for name, column in int8_columns((model.name, model.int8) for model in found.models).items()
    }
    if columns:
        st.subheader("In int8", anchor=False)
        with st.container(key="int8"):
            st.table(pd.DataFrame(columns), border="horizontal", alt="figures of int8 files")
        st.caption(
            "Each int8 file against the float file of the same model, in the same runtime: accuracy on the "
            "test images named, time in turns."
        )


def _legend(found: Comparison) -> str:
    titles = [f"**{wording.plain(model.name)}**: {wording.plain(model.title)}" for model in found.models]
    result = found.dense.result
    images, within = wording.count(result.images), wording.accuracy_within(result)
    about = f"{told} " if (told := wording.accuracy_meaning(result)) else ""
    return (
        f"{' · '.join(titles)}  \nAccuracy on {images} test images of {wording.plain(found.data)}, with 95 % "
        f"intervals (Wilson). {about}The change of {within} is counted image by image against the dense "
        "model, with Tango's 95 % interval and the p-value of the same score test (McNemar's): above "
        "0.05 the interval holds 0, and chance alone could explain the change."
    )
