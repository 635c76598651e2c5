"""The formats to choose from, the one press that builds those chosen, and the files to download."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from app import wording
from app.parts import feedback
from app.progress_bar import progress_bar
from app.views.export import build, formats
from app.views.export.build import DENSE, Exportable
from pruning.bundle import DTYPES
from pruning.export import missing_packages

COLUMNS = 4
FIRST = "bundle"  # the format that is chosen before anything is


def chosen() -> list[str]:
    """The formats that are ticked."""
    return [name for name in formats.shown() if st.session_state.get(_key(name), name == FIRST)]


def dtype_of(model: Exportable) -> str:
    """The precision of whole folders: at first that of the model's own files."""
    found: str = st.session_state.get(_dtype_key(model)) or ("float16" if model.loaded.half else "float32")
    return found


def show(model: Exportable, dtype: str) -> None:
    """Cards to tick, a button for all that are ticked, and what has been built.

    The button comes first in time though last on the page, so that the cards know of what it has built.
    """
    cards = st.container(key="formats")
    with st.container(horizontal=True, vertical_alignment="bottom", key="export-press"):
        _dtype(model, dtype)
        pressed = st.button(
            "Build",
            type="primary",
            icon=":material/build:",
            key="build",
            disabled=not _missing(model, dtype),
            width="content",
        )
        beside = st.container(width="content")
    if pressed:
        _build(model, dtype)
    names = list(formats.shown())
    with cards:
        for begin in range(0, len(names), COLUMNS):
            row = names[begin : begin + COLUMNS]
            for column, format in zip(st.columns(COLUMNS, gap="medium"), row, strict=False):
                with column, st.container(border=True, key=f"export-{format}", height="stretch"):
                    _card(model, format, dtype)
    with beside:
        _said(model, dtype)
        _all(model, dtype)


def _missing(model: Exportable, dtype: str) -> list[str]:
    """The formats that are ticked and have not been built."""
    return [name for name in chosen() if build.built_name(name, dtype) not in model.built]


def _dtype(model: Exportable, dtype: str) -> None:
    st.segmented_control(
        "Weights of bundle and transformers",
        DTYPES,
        default=dtype,
        required=True,
        key=_dtype_key(model),
        width="content",
    )


def _build(model: Exportable, dtype: str) -> None:
    """Build what is missing; a format that fails does not stop the others."""
    known, missing = formats.shown(), _missing(model, dtype)
    for number, name in enumerate(missing, start=1):
        said = f"Building and checking {wording.plain(known[name].title)}, {number} of {len(missing)} …"
        with feedback.sentences(), st.spinner(said), progress_bar() as progress:
            build.build(model, name, dtype, progress)
    if not _missing(model, dtype):
        st.rerun()  # where one failed, the sentence that says why has to stay


def _said(model: Exportable, dtype: str) -> None:
    """What the button will build."""
    missing = _missing(model, dtype)
    if missing:
        size = wording.megabytes(sum(build.size(model, name, dtype) for name in missing))
        st.caption(f"{len(missing)} file{'s' * (len(missing) > 1)}, about {size}")
    elif not chosen():
        st.caption("Tick at least one format.")


def _card(model: Exportable, format: str, dtype: str) -> None:
    shown = formats.shown()[format]
    st.checkbox(
        f"**{shown.icon} {shown.title}**",
        value=format == FIRST,
        key=_key(format),
        persist_state="session",
    )
    if shown.explanation:
        st.caption(shown.explanation)
    file = model.built.get(build.built_name(format, dtype))
    needed = missing_packages(format)
    if file is None and needed:
        st.caption(f"First install what it needs: pip install {wording.plain(' '.join(needed))}")
    elif file is None:
        st.caption(f"About {wording.megabytes(build.size(model, format, dtype))}")
    else:
        _download("Download", file.name, file.stat().st_size, file.read_bytes, f"download-{format}")


def _all(model: Exportable, dtype: str) -> None:
    """One zip of every file that has been built, once there are several."""
    names = (build.built_name(name, dtype) for name in formats.shown())
    files = [model.built[name] for name in names if name in model.built]
    if len(files) > 1:
        size = sum(file.stat().st_size for file in files)
        _download(
            f"Download all {len(files)}",
            f"{model.stem}-exported.zip",
            size,
            partial(zipped, files),
            "download-all",
        )


def zipped(files: Sequence[Path]) -> bytes:
    """A zip of files, which are not compressed again."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.writestr(file.name, file.read_bytes())
    return packed.getvalue()


def _download(label: str, name: str, size: int, read: Callable[[], bytes], key: str) -> None:
    st.download_button(
        f"{label}, {wording.megabytes(size)}",
        read,
        file_name=name,
        type="primary",
        icon=":material/download:",
        on_click="ignore",
        width="stretch",
        key=key,
    )


def _key(format: str) -> str:
    return f"export-pick-{format}"


def _dtype_key(model: Exportable) -> str:
    return f"export-dtype-{model.run.key if model.run else DENSE}"
