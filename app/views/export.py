"""The Export page: a finished run's smaller model in files, and how to load them."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import streamlit as st

from analysis.measure import cost
from analysis.models import ARCHITECTURE_FILE, PREPROCESS_FILE, WEIGHTS_FILE
from app import wording
from app.parts import damaged_runs, feedback, pick_run
from app.state import uploads
from app.state.finished_runs import NumberedRun
from pruning.bundle import (
    CARD_FILE,
    CODE_FILE,
    EXAMPLE_FILE,
    LOADER,
    PLAN_FILE,
    REPORT_FILE,
    zip_bundle,
)
from pruning.export import export_onnx, export_pt2
from pruning.jobs import Job, RecoverJob

CONTENT = {
    WEIGHTS_FILE: "the weights, float32",
    ARCHITECTURE_FILE: "all widths, block by block",
    CODE_FILE: "the model's code, one file that needs only torch",
    EXAMPLE_FILE: f"classifies a photo: python {EXAMPLE_FILE} photo.jpg",
    PREPROCESS_FILE: "image size, normalisation, class names",
    PLAN_FILE: "which parts of the dense model were kept",
    REPORT_FILE: "size, compute and accuracy before and after",
    CARD_FILE: "a model card",
}
FORMATS = {
    "bundle": ("Bundle", ":material/folder_zip:", "A folder that loads with only torch and safetensors."),
    "onnx": (
        "ONNX",
        ":material/memory:",
        "For ONNX Runtime, with any batch size. Checked against the model.",
    ),
    "pt2": (
        ".pt2",
        ":material/data_object:",
        "A torch.export program. Reloaded and checked against the model.",
    ),
}


def show() -> None:
    """Draw the page."""
    st.header("Export", anchor=False)
    run = pick_run.pick_run("export-run")
    if run is not None:
        _show(run)
    damaged_runs.show(Job, RecoverJob)


def _show(run: NumberedRun) -> None:
    for column, kind in zip(st.columns(3, gap="medium"), FORMATS, strict=True):
        with column, st.container(border=True, key=f"export-{kind}", height="stretch"):
            _format(run, kind)
    st.subheader("Load the bundle anywhere", anchor=False)
    st.code(LOADER, language="python", wrap_lines=True)
    left, right = st.columns(2, gap="large")
    with left:
        st.subheader("What the bundle contains", anchor=False)
        st.table(CONTENT, border="horizontal", hide_header=True)
    with right:
        st.subheader("The same on the command line", anchor=False)
        st.code(_commands(run), language="bash", wrap_lines=True)


def _commands(run: NumberedRun) -> str:
    folder = f"smaller-{run.number}"
    export = ["python", "-m", "pruning", "export", "--model", folder, "--format", "onnx,pt2", "--out", folder]
    return f"{run.finished.job.command(folder)}\n\n{shlex.join(export)}"


def _format(run: NumberedRun, kind: str) -> None:
    title, icon, explanation = FORMATS[kind]
    st.markdown(f"**{icon} {title}**")
    st.caption(explanation)
    with feedback.sentences():
        if kind not in run.files:
            size = wording.megabytes(cost(run.finished.arch).bytes)
            if not st.button(f"Build, about {size}", key=f"build-{kind}", width="stretch"):
                return
            with st.spinner("Building and checking …"):
                run.files[kind] = _build(run, kind)
            st.rerun()
        file = run.files[kind]
        st.download_button(
            f"Download, {wording.megabytes(file.stat().st_size)}",
            file.read_bytes,
            file_name=file.name,
            type="primary",
            icon=":material/download:",
            on_click="ignore",
            width="stretch",
            key=f"download-{kind}",
        )


def _build(run: NumberedRun, kind: str) -> Path:
    """Write one format into the session's folder; returns the file to download."""
    finished = run.finished
    method = getattr(finished.job, "method", "recovered")
    name = f"{Path(finished.dense.name).name.replace(':', '-')}-{method}-{run.number}"
    folder = uploads.workspace() / name
    pruned = finished.pruned
    if kind == "onnx":
        return export_onnx(pruned.model, folder.with_suffix(".onnx"), pruned.preprocess)
    if kind == "pt2":
        return export_pt2(pruned.model, folder.with_suffix(".pt2"), pruned.preprocess)
    shutil.copytree(
        finished.bundle, folder, dirs_exist_ok=True
    )  # copied, so that the folder has the download's name
    packed = folder.with_suffix(".zip")
    packed.write_bytes(zip_bundle(folder))
    return packed
