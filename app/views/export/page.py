"""The Export page: a finished run's smaller model, or the loaded one, in files, and how to run them."""

from __future__ import annotations

import shlex

import pandas as pd
import streamlit as st

from analysis.models import ARCHITECTURE_FILE, PREPROCESS_FILE, WEIGHTS_FILE
from analysis.outputs import CLASSIFY
from app import wording
from app.glossary import meaning
from app.parts import damaged_runs, feedback, run_panel
from app.state import session, session_runs
from app.views.export import build, files, formats
from app.views.export.build import Exportable
from pruning.bundle import CARD_FILE, CODE_FILE, EXAMPLE_FILE, LOADER, PLAN_FILE, REPORT_FILE
from pruning.export import FOLDERS
from pruning.jobs import Job, RecoverJob
from pruning.quantize import INT8_FORMATS
from pruning.report import quantized_row

CHOSEN = "export-run"


def show() -> None:
    """Draw the page."""
    st.header("Export", anchor=False)
    with feedback.sentences():
        _show(build.chosen(_choose()))
    damaged_runs.show(Job, RecoverJob)


def _choose() -> str:
    """The key of a model; a run that is new here is shown first."""
    titles = build.choices()
    first = next(iter(titles))
    if st.session_state.get("export seen") != first or st.session_state.get(CHOSEN) not in titles:
        st.session_state["export seen"] = st.session_state[CHOSEN] = first
    wanted = st.session_state.pop("export wanted", None)
    if wanted in titles:
        st.session_state[CHOSEN] = wanted
    chosen: str = st.selectbox(
        "Model", list(titles), format_func=titles.__getitem__, key=CHOSEN, persist_state="session"
    )
    return chosen


def _show(model: Exportable) -> None:
    dtype = files.dtype_of(model)
    _figures(model, dtype)
    files.show(model, dtype)
    known = formats.shown()
    _int8(model, known)
    _snippets(model, known, dtype)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("What the bundle contains", anchor=False, help=meaning("Bundle"))
        st.table(_content(model, dtype), border="horizontal", hide_header=True)
    with right:
        st.subheader("The same on the command line", anchor=False)
        run_panel.command(_commands(model, dtype, files.chosen() or [files.FIRST]))


# ---- what is exported


def _figures(model: Exportable, dtype: str) -> None:
    """Size, compute and accuracy of what is exported, against the dense model in the same precision."""
    mine = model.cost
    theirs = build.dense_cost(model) or mine
    part = 2 if dtype == "float16" else 1
    figures = (
        ("Parameters", mine.params, theirs.params, wording.count),
        ("Compute per image", mine.macs, theirs.macs, wording.gmacs_of),
        (f"Size, {dtype}", mine.bytes // part, theirs.bytes // part, wording.megabytes),
    )
    with st.container(key="export-figures"):
        columns = st.columns(4)
    for column, (label, new, old, written) in zip(columns, figures, strict=False):
        change = wording.real_change(old, new)
        about = meaning("GMACs") if written is wording.gmacs_of else None
        column.metric(label, written(new), change, delta_color="inverse", help=about)
    with columns[3]:
        _accuracy(model)


def _accuracy(model: Exportable) -> None:
    if model.result is None:
        if model.run is None and session.choice().data is not None:
            st.caption("The accuracy of this model has not been measured yet.")
            feedback.link("model", "Measure it", ":material/arrow_back:")
        return
    when = wording.plain(f", {model.run.finished.when}") if model.run else ""
    before = build.dense_result(model)
    changed = before is not None and round(before.top1, 3) != round(model.result.top1, 3)
    st.metric(
        f"{wording.accuracy_name(model.result)}{when}",
        wording.percent(model.result.top1),
        None if before is None else wording.points(before.top1, model.result.top1),
        delta_color="normal" if changed else "off",
        delta_arrow="auto" if changed else "off",
        help=f"95 % interval (Wilson): {wording.interval(model.result)}. "
        f"{wording.accuracy_meaning(model.result)}",
    )
    if said := wording.likeness_sentence(model.result):
        st.caption(said)


def _content(model: Exportable, dtype: str) -> dict[str, str]:
    classifies = model.loaded.task == CLASSIFY
    content = {
        WEIGHTS_FILE: f"the weights, {wording.plain(dtype)}",
        ARCHITECTURE_FILE: "all widths, block by block",
        CODE_FILE: "the model's code, one file that needs only torch",
        EXAMPLE_FILE: f"{'classifies a photo' if classifies else 'the features of a photo'}: "
        f"python {EXAMPLE_FILE} photo.jpg",
        PREPROCESS_FILE: "image size, normalisation, class names",
    }
    if model.has_plan:
        content[PLAN_FILE] = "which parts of the dense model were kept"
    return content | {REPORT_FILE: "size, compute and accuracy, where known", CARD_FILE: "a model card"}


def _commands(model: Exportable, dtype: str, names: list[str]) -> str:
    words = ["python", "-m", "pruning", "export", "--model"]
    source = [f"smaller-{model.run.number}"] if model.run else _loaded()
    data = session.choice().data
    others = [name for name in names if name not in FOLDERS]
    images = ["--data", data or "photos"] if set(others) & set(INT8_FORMATS) else []
    lines = [session_runs.command(model.run.finished.run, source[0])] if model.run else []
    for folder, out in zip(FOLDERS, ("exported", "for-transformers"), strict=True):
        if folder in names:
            lines.append(shlex.join([*words, *source, "--format", folder, "--dtype", dtype, "--out", out]))
    if others:
        lines.append(shlex.join([*words, *source, "--format", ",".join(others), *images, "--out", "files"]))
    return "\n\n".join(lines)


def _loaded() -> list[str]:
    """The loaded model, as the command line takes it."""
    chosen = session.choice()
    weights = ["--weights", chosen.weights] if chosen.weights else []
    return [chosen.model, *weights, *chosen.reading.words()]


# ---- figures of int8 files, and snippets


def _int8(model: Exportable, known: dict[str, formats.Shown]) -> None:
    """What the int8 files built so far cost in accuracy and gain in size and time, a column for each."""
    found = {format: build.int8_report(model, format) for format in INT8_FORMATS}
    reports = {known[format].title: report for format, report in found.items() if report is not None}
    if not reports:
        return
    with st.container(key="int8"):
        columns = {
            wording.plain(title): {
                wording.plain(row): wording.plain(figure) for row, figure in quantized_row(report).items()
            }
            for title, report in reports.items()
        }
        st.table(pd.DataFrame(columns).fillna(""), border="horizontal", alt="figures of int8 files")
    st.caption(
        "Each int8 file against the float file of the same model, in the same runtime: accuracy on the test "
        "images named, time in turns."
    )


def _snippets(model: Exportable, known: dict[str, formats.Shown], dtype: str) -> None:
    """How to run each format on a photo, with no more than the packages named."""
    st.subheader("Run it anywhere", anchor=False)
    told = [name for name in known if known[name].snippet]
    for name, tab in zip(told, st.tabs([known[name].title for name in told], key="export-tab"), strict=True):
        with tab:
            st.code(f"pip install {known[name].needs}", "bash")
            if name == "bundle":
                st.code(LOADER, "python", wrap_lines=True)
                st.caption(f"Or, with the preprocessing, by {EXAMPLE_FILE}:")
            file, classifies = build.file_name(model, name, dtype), model.loaded.task == CLASSIFY
            st.code(formats.snippet(name, file, classifies), "python", wrap_lines=True)
