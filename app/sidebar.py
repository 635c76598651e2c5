"""The sidebar: the loaded model and images, active runs, and a form that loads something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st
import torch

from analysis.data import UnnamedClassesError
from analysis.measure import cost
from analysis.models import WEIGHTS_ENDINGS, Reading, suggested
from analysis.paths import absolute, user_path
from app import reading_form, share, wording
from app.parts import feedback, run_panel
from app.state import choice_address, session, uploads
from app.state.session import Choice

MODELS = {"demo": "Demo", "name": "timm or hub", "bundle": "Bundle"}
IMAGES = {"demo": "Demo scenes", "path": "Folder or zip", "upload": "Upload a zip", "none": "None"}
_NO_SCENES = "scenes left out"  # as the model that was loaded does not know their classes
WEIGHTS = {"hub": "From the hub", "path": "Local file", "upload": "Upload"}


def show() -> None:
    """Draw the sidebar."""
    _summary()
    with st.expander("Model and images", icon=":material/tune:", expanded=False, key="source"):
        pending = _form()
        asked = st.button("Load", type="primary", width="stretch", key="load")
        if asked or st.session_state.pop("load again", False):
            with feedback.sentences():
                _apply(pending)
        _offer_classes()
    with feedback.sentences():
        run_panel.recent()  # below the form, which a list of runs would push out of sight
    st.caption(_device())


def _summary() -> None:
    with feedback.sentences():
        chosen, shown = session.choice(), session.model()
        arch = shown.model.arch
        total = cost(arch)
        shape = f"{arch.depth} blocks × {max(block.heads for block in arch.blocks)} heads"
        lines = [f"{wording.millions(total.params)} parameters · {wording.gmacs(total.gmacs)}", shape]
        if chosen.data is None:
            lines.append("no images: drop some on the Start page")
        else:
            lines.append(
                f"{wording.plain(session.images().name)}, {wording.count(session.test_count())} test images"
            )
        notes = (*shown.notes, *(session.images().notes if chosen.data is not None else ()))
        lines += [f"Note: {wording.plain(note)}." for note in notes]
        with st.container(key="loaded", gap=None):
            name = Path(shown.name).name if "/" in shown.name else shown.name
            st.markdown(f"**{wording.plain(name)}**")
            st.caption("  \n".join(lines))
            if choice_address.has_uploads():
                st.caption(
                    "Uploads are not in the address. They are deleted when this page is refreshed or closed."
                )


def _form() -> dict[str, Any]:
    """The widgets of the form and their values; nothing is loaded before the button is pressed."""
    if share.is_shared():
        st.caption(_shared())
    pending: dict[str, Any] = {"source": _pick("Model", MODELS, "model-source")}
    if pending["source"] == "name":
        pending |= _name_fields()
    elif pending["source"] == "bundle":
        pending["model"] = st.text_input(
            "Bundle folder",
            key="bundle-folder",
            persist_state="session",
            help="Or a folder that Hugging Face transformers wrote, such as a Trainer's checkpoint-500.",
        )
    if pending["source"] != "demo":
        pending["reading"] = reading_form.fields(structure=pending["source"] == "name")
    if st.session_state.pop(_NO_SCENES, False):
        st.session_state["image-source"] = "none"
    pending["images"] = _pick("Images", IMAGES, "image-source")
    if pending["images"] == "path":
        pending["data"] = st.text_input(
            "Folder or zip",
            key="data-path",
            persist_state="session",
            help="A folder of class folders or a zip of one; images with a table of their classes "
            "(file,label); parquet files; or cifar10:FOLDER.",
        )
    elif pending["images"] == "upload":
        pending["upload"] = st.file_uploader(
            "Zip of class folders",
            type="zip",
            key="data-upload",
            max_upload_size=uploads.MAX_UPLOAD_MB["images"],
        )
    st.session_state.setdefault("limit", Choice.limit)  # unless the address has set it
    pending["limit"] = st.number_input(
        "Test images, at most",
        min_value=1,
        step=100,
        key="limit",
        persist_state="session",
        help="Accuracy is measured on this many. More take longer, and make the interval narrower.",
    )
    return pending


def _name_fields() -> dict[str, Any]:
    fields: dict[str, Any] = {
        "model": st.selectbox(
            "timm name, or hf-hub:owner/name",
            [name for name in suggested() if name != "demo"],
            key="model-name",
            accept_new_options=True,
            persist_state="session",
            help="Choose one of these, or type the name of any plain Vision Transformer.",
        ),
        "weights": _pick("Weights", WEIGHTS, "weights-source"),
    }
    if fields["weights"] == "path":
        fields["weights-path"] = st.text_input(
            "Weights file",
            key="weights-path",
            persist_state="session",
            help="Of any tool: .safetensors, .pth, .ckpt, .npz or another",
        )
    elif fields["weights"] == "upload":
        fields["weights-upload"] = st.file_uploader(
            "Weights file",
            type=WEIGHTS_ENDINGS,
            key="weights-upload",
            max_upload_size=uploads.MAX_UPLOAD_MB["weights"],
        )
    return fields


def _pick(label: str, options: dict[str, str], key: str) -> str:
    chosen: str = st.selectbox(
        label, list(options), format_func=options.__getitem__, key=key, persist_state="session"
    )
    return chosen


def _apply(pending: dict[str, Any]) -> None:
    """Load what the form asks for; if that fails, nothing changes."""
    st.session_state.pop("offered classes", None)
    try:
        asked = Choice(
            model=_model(pending),
            weights=_weights(pending),
            data=_data(pending),
            limit=int(pending["limit"]),
            reading=pending["reading"]() if "reading" in pending else Reading(),
        )
        st.session_state[_NO_SCENES] = session.choose(asked).data != asked.data
    except UnnamedClassesError as error:
        st.session_state["offered classes"] = error.folders
        raise ValueError(
            "The model does not name its classes, so nothing says which of them the class folders are."
        ) from error
    choice_address.forget_failure()
    st.rerun()


def _offer_classes() -> None:
    """Where class folders could not be matched: the usual order, which the user may take."""
    offered = st.session_state.get("offered classes")
    if offered:
        order = ", ".join(offered[:10]) + (", …" if len(offered) > 10 else "")
        st.caption(
            f"Usually classes are numbered in the order of the sorted folders: {wording.plain(order)}. If "
            "that is so here, take these names; otherwise enter them under **How to read the files**."
        )
        st.button(
            "Take the sorted folders", key="take-classes", width="stretch", on_click=_take, args=(offered,)
        )


def _take(names: tuple[str, ...]) -> None:
    reading_form.fill(Reading(labels=names))
    st.session_state["load again"] = True
    st.session_state.pop("offered classes", None)


def _model(pending: dict[str, Any]) -> str:
    if pending["source"] == "demo":
        return "demo"
    name = (pending["model"] or "").strip()
    if not name:
        raise ValueError("Enter the name of a model, or the folder of a bundle.")
    # an absolute path, so that the folder is never taken for a timm name
    return str(absolute(user_path(name, "The folder"))) if pending["source"] == "bundle" else name


def _weights(pending: dict[str, Any]) -> str | None:
    kind = pending.get("weights", "hub")
    if kind == "path":
        if not pending["weights-path"].strip():
            raise ValueError("Enter the path of the weights file.")
        return str(user_path(pending["weights-path"].strip(), "The weights file"))
    if kind == "upload":
        if pending["weights-upload"] is None:
            raise ValueError("First choose a weights file to upload.")
        return uploads.save_upload(pending["weights-upload"], "weights")
    return None


def _data(pending: dict[str, Any]) -> str | None:
    kind = pending["images"]
    if kind == "path":
        if not pending["data"].strip():
            raise ValueError("Enter the path of a folder or zip of images.")
        return str(pending["data"]).strip()
    if kind == "upload":
        if pending["upload"] is None:
            raise ValueError("First choose a zip of images to upload.")
        return uploads.save_upload(pending["upload"], "images")
    return "demo" if kind == "demo" else None


def _shared() -> str:
    folders = " and ".join(wording.plain(str(folder)) for folder in share.shared_folders())
    return f"Paths are those of the server, inside {folders}." if folders else "Upload files to open them."


def _device() -> str:
    threads = torch.get_num_threads()
    return f"CPU · {threads} thread{'s' * (threads > 1)} · torch {torch.__version__.partition('+')[0]}"
