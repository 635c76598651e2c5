"""What the user uploads: files and photos, where they are kept, and how many and how large they may be."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from PIL import Image

from analysis.data import ZIP_ERRORS, BadImageError, read_image
from analysis.models import ARCHITECTURE_FILE
from app import share
from app.state.viewed_image import ViewedImage

MAX_UPLOAD_MB = {"weights": 1024, "images": 500, "photo": 64, "device": 16}
MAX_PHOTOS = 16
MODEL_FILES = (ARCHITECTURE_FILE, "config.json")  # of a bundle, and of a folder that transformers wrote
DIGITS = 16  # of the name of a folder in which an upload lies
_LONGEST = 200  # bytes of a name; file systems allow 255
KEPT_SIDE = 1536  # pixels of a photo's longer side: three times what the largest model takes


# ---- files


class Workspace:
    """A temporary folder that is deleted with the session."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="prunescope-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def workspace() -> Path:
    """The session's temporary folder."""
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = Workspace()
    kept: Workspace = st.session_state["workspace"]
    return kept.path


def save_upload(upload: Any, kind: str) -> str:
    """Keep an uploaded file for this session, in a folder named by its content; returns the path.

    Raises:
        ValueError: it is larger than `MAX_UPLOAD_MB` of this kind, however it got past the widget.
    """
    _require_small(upload, kind)
    content = upload.getbuffer()
    digest = hashlib.blake2b(content, digest_size=DIGITS // 2).hexdigest()
    folder = workspace() / digest
    path = folder / _file_name(upload.name)
    if not path.exists():
        share.require_upload_room(upload.size)
        folder.mkdir(exist_ok=True)
        path.write_bytes(content)
    return str(path)


def save_folder(files: Sequence[Any], kind: str) -> str:
    """Keep the files of a model's folder, or of a zip of one; returns the path of the folder.

    It is called as the zip, as pages name a model by its folder.

    Raises:
        ValueError: one is too large, or the zip is damaged or holds no model.
    """
    for file in files:
        _require_small(file, kind)
    read = {Path(file.name).name: file.getvalue() for file in files}
    name = "model"
    if len(files) == 1:
        name = _file_name(Path(files[0].name).stem)
        read = _unzipped(read.popitem()[1], MAX_UPLOAD_MB[kind] * 2**20)
    digest = hashlib.blake2b(digest_size=DIGITS // 2)
    for file_name in sorted(read):
        digest.update(file_name.encode() + b"\0" + read[file_name])
    folder = workspace() / digest.hexdigest() / name
    if not folder.exists():
        share.require_upload_room(sum(map(len, read.values())))
        folder.mkdir(parents=True)
        for file_name, content in read.items():
            (folder / _file_name(file_name)).write_bytes(content)
    return str(folder)


def is_model_folder(names: Collection[str]) -> bool:
    """Whether files of these names are those of a bundle, or of a folder that transformers wrote."""
    return any(Path(name).name in MODEL_FILES for name in names)


def _unzipped(content: bytes, most: int) -> dict[str, bytes]:
    """The files that lie beside a model's description in a zip, by their names without folders."""
    damaged = "The zip is damaged or encrypted; make it again."
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        entries = archive.infolist()
    except ZIP_ERRORS as error:
        raise ValueError(damaged) from error
    places = [Path(one.filename).parent for one in entries if Path(one.filename).name in MODEL_FILES]
    if not places:
        raise ValueError(f"The zip holds no model: one of its files must be {' or '.join(MODEL_FILES)}.")
    inside = [one for one in entries if Path(one.filename).parent == places[0] and not one.is_dir()]
    if sum(one.file_size for one in inside) > most:
        raise ValueError(f"The zip unpacks to more than {most // 2**20:,} MB.")
    try:
        return {Path(one.filename).name: archive.read(one) for one in inside}
    except ZIP_ERRORS as error:
        raise ValueError(damaged) from error


def _file_name(name: str) -> str:
    """The name under which an upload is kept: that of the file, without folders, and not too long."""
    given = Path(name.replace("\0", "")).name
    if given in ("", ".", ".."):
        return "upload"
    stem, suffix = Path(given).stem, Path(given).suffix
    return given if len(given.encode(errors="replace")) <= _LONGEST else f"{stem[:40]}{suffix[:10]}"


def _require_small(upload: Any, kind: str) -> None:
    if upload.size > MAX_UPLOAD_MB[kind] * 2**20:
        raise ValueError(
            f"The uploaded file has {upload.size / 2**20:,.1f} MB, but at most {MAX_UPLOAD_MB[kind]:,} MB "
            "are read."
        )


# ---- photos, the same ones on every page


def photos() -> list[ViewedImage]:
    """The photos that could be read."""
    return [photo for photo in _photos().values() if isinstance(photo, ViewedImage)]


def photo_problems() -> list[str]:
    """Why the others could not be read, one sentence each."""
    return [str(problem) for problem in _photos().values() if isinstance(problem, BadImageError)]


def replace_photos(files: Sequence[Any]) -> None:
    """Keep the photos in these files of an upload widget and no others; each is read only once.

    Raises:
        ValueError: too many at once.
    """
    if len(files) > MAX_PHOTOS:
        raise ValueError(
            f"At most {MAX_PHOTOS} photos can be shown at once, but {len(files)} were uploaded. "
            "Remove some of them."
        )
    kept = _photos()
    st.session_state["own photos"] = {file.file_id: kept.get(file.file_id) or _read(file) for file in files}


def _photos() -> dict[str, ViewedImage | BadImageError]:
    kept: dict[str, ViewedImage | BadImageError] = st.session_state.get("own photos", {})
    return kept


def _read(file: Any) -> ViewedImage | BadImageError:
    """A photo, shrunk to `KEPT_SIDE`, or why it cannot be read."""
    try:
        _require_small(file, "photo")
        image = read_image(file, file.name)
    except ValueError as error:
        return BadImageError(str(error))  # a new one, as the traceback of the first holds the file
    image.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    return ViewedImage(file.name, image, None, file.file_id)
