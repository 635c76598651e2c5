"""Bring your model: files dropped on the page, what is recognised in them, and what is still asked for."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import streamlit as st

from analysis.data import EXTENSIONS, UnnamedClassesError
from analysis.measure import cost
from analysis.models import LoadedModel, Reading, fitting_names, suggested
from app import reading_form, share, wording
from app.parts import image_picker
from app.state import memo, session, uploads
from app.state.session import Choice
from app.views.start import opening
from pruning.jobs import Job, image_sets

PLACE = "start-"  # tells the fields of this page from those of the sidebar


def show() -> None:
    """Draw the uploaders; once there is a model, what is recognised and the buttons that load it."""
    st.subheader("Bring your model", anchor=False)
    left, right = st.columns(2, gap="small")
    with left:
        files = st.file_uploader(
            "Drop its weights, or its folder",
            accept_multiple_files=True,
            key="start-model",
            max_upload_size=uploads.MAX_UPLOAD_MB["weights"],
            help="Weights of any tool (.safetensors, .pth, .ckpt, .npz and others), a bundle of this app, or "
            "a folder that Hugging Face transformers wrote: all of its files, or a zip of it.",
        )
    with right:
        data, photos = _images()
    if files:
        model, weights = _from_files(files)
    else:
        model, weights = _by_name(), None
    if not model:
        if data or photos:
            st.caption("Now drop the model as well, or name it.")
        return
    read = reading_form.fields(structure=weights is not None or not files, place=PLACE)
    _confirm(Choice(model, weights, data, reading=read()), photos)


def _images() -> tuple[str | None, int]:
    """The zip of images that was dropped, and how many photos beside it, which are to be looked at only.

    Raises:
        ValueError: several zips, or too many photos.
    """
    files = st.file_uploader(
        "Drop a zip of images, or photos",
        type=["zip", *(extension.removeprefix(".") for extension in EXTENSIONS)],
        accept_multiple_files=True,
        key="start-images",
        max_upload_size=uploads.MAX_UPLOAD_MB["images"],
        help="In the zip, a folder for each class. Accuracy is measured on one part of the images, and what "
        "matters in the model on the other; a few hundred are enough. Without a zip a model can be looked "
        "at, in photos of your own too, but not pruned.",
    )
    zips = [file for file in files if file.name.lower().endswith(".zip")]
    if len(zips) > 1:
        raise ValueError("Drop one zip of images: there are several.")
    photos = 0
    if len(files) > len(zips):
        photos = image_picker.keep_photos([file for file in files if file not in zips])
    return (uploads.save_upload(zips[0], "images") if zips else None), photos


def _by_name() -> str | None:
    if share.is_shared():
        return None
    name: str | None = st.selectbox(
        "Or name a model of timm or of the Hugging Face hub, whose weights are then downloaded",
        [name for name in suggested() if name != "demo"],
        index=None,
        key="start-name",
        placeholder="deit_tiny_patch16_224, hf-hub:owner/name",
        accept_new_options=True,
    )
    return name.strip() if name else None


def _from_files(files: list[Any]) -> tuple[str | None, str | None]:
    """The model, and its weights if these are a file of their own; no model as long as it is asked for.

    Raises:
        ValueError: several files that are no model together, or one that cannot be read.
    """
    names = [file.name for file in files]
    if uploads.is_model_folder(names) or (len(files) == 1 and names[0].lower().endswith(".zip")):
        return uploads.save_folder(files, "weights"), None
    if len(files) > 1:
        raise ValueError(
            "These files are no model together: drop one file of weights, or all files of a folder with "
            f"{' or '.join(uploads.MODEL_FILES)}."
        )
    weights = uploads.save_upload(files[0], "weights")
    fitting = memo.remember("fitting names", weights, lambda: fitting_names(Path(weights)), keep=4)
    return _named(fitting), weights


def _named(fitting: tuple[str, ...]) -> str | None:
    """The timm name of a file of weights; the user chooses where several or none are known."""
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        name: str | None = st.selectbox(
            "Which of these is it? They have the same shapes, and differ in how images are prepared.",
            fitting,
            key=f"start-which-{fitting[0]}",
        )
        return name
    name = st.selectbox(
        "The weights are of no model that is known by its shapes. Which model of timm are they for?",
        [name for name in suggested() if name != "demo"],
        index=None,
        key="start-which",
        placeholder="its name in timm",
        accept_new_options=True,
    )
    return name.strip() if name else None


# ---- what is recognised


def _confirm(chosen: Choice, photos: int) -> None:
    """What was recognised, and the buttons that take it.

    Raises:
        ValueError: the model or the images cannot be loaded, or do not fit each other.
    """
    loaded = session.model(chosen)
    facts = _of_model(chosen, loaded)
    try:
        facts |= _of_images(chosen, loaded, photos)
    except UnnamedClassesError as error:
        _facts(facts)
        _offer_names(error.folders)
        return
    except ValueError:
        _facts(facts)
        raise
    _facts(facts)
    for note in loaded.notes:
        st.caption(f"Note: {wording.plain(note)}.")
    opening.buttons(chosen, "own")


def _of_model(chosen: Choice, loaded: LoadedModel) -> dict[str, str]:
    arch, preprocess = loaded.model.arch, loaded.preprocess
    total = cost(arch)
    rows, columns = arch.image_size
    names = ", ".join(preprocess.labels[:3]) + (", …" if len(preprocess.labels) > 3 else "")
    classes = f"{wording.count(arch.num_classes)}" + (f": {names}" if names else ", not named")
    mean, std = (
        ", ".join(f"{value:.3g}" for value in values) for values in (preprocess.mean, preprocess.std)
    )
    return {
        "Model": Path(chosen.model).name if chosen.weights is None else chosen.model,
        "Size": f"{arch.depth} blocks × {max(block.heads for block in arch.blocks)} heads, "
        f"{wording.millions(total.params)} parameters, {wording.gmacs(total.gmacs)}",
        "Image": f"{rows} × {columns} px in patches of {arch.patch_size[0]} × {arch.patch_size[1]}",
        "Classes": classes if arch.num_classes else "none: it has no classifier",
        "Preprocessing": f"{preprocess.crop_pct:.0%} crop, mean {mean}, standard deviation {std}",
    }


def _of_images(chosen: Choice, loaded: LoadedModel, photos: int) -> dict[str, str]:
    if chosen.data is None:
        there = (
            "none yet"
            if not photos
            else "1 photo to look at"
            if photos == 1
            else f"{photos} photos to look at"
        )
        return {"Images": f"{there}: drop a zip to prune and to measure accuracy"}
    test = session.images_of(chosen)
    job = Job(chosen.model, chosen.data, weights=chosen.weights, reading=chosen.reading)
    parts = memo.remember("image parts", (chosen, loaded), lambda: image_sets(job, loaded), keep=2)
    tested = len(test or ())
    most = f", of which {wording.count(chosen.limit)} are used" if tested > chosen.limit else ""
    return {
        "Images": f"{wording.count(tested)} to test on{most}, {wording.count(len(parts[0]))} others to "
        "measure importance on"
    }


def _facts(facts: Mapping[str, str]) -> None:
    rows = (f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts.items())
    with st.container(key="start-facts"):
        st.html(f'<table class="facts">{"".join(rows)}</table>')


def _offer_names(folders: tuple[str, ...]) -> None:
    """Where class folders could not be matched: the usual order, which the user may take."""
    order = ", ".join(folders[:10]) + (", …" if len(folders) > 10 else "")
    st.warning(
        "The model does not name its classes. Usually they are numbered in the order of the sorted "
        f"folders: {wording.plain(order)}. If that is so, take these names; otherwise enter them above, "
        "under **How to read the files**.",
        icon=":material/label:",
    )
    st.button(
        "Take the sorted folders",
        type="primary",
        key="start-take-classes",
        on_click=reading_form.fill,
        args=(Reading(labels=folders), PLACE),
    )
