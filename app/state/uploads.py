"""Uploaded files: where they are kept, and how large they may be."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any

import streamlit as st

MAX_UPLOAD_MB = {"weights": 1024, "images": 512, "photo": 64}


# ---- files


class Workspace:
    """A temporary folder that goes when the session does."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="prunescope-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def workspace() -> Path:
    """The session's temporary folder."""
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = Workspace()
    kept: Workspace = st.session_state["workspace"]
    return kept.path


def save_upload(upload: Any) -> str:
    """Keep an uploaded file for this session under a name made from its content; returns the path."""
    content = upload.getbuffer()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    folder = workspace() / digest
    path = folder / Path(upload.name).name
    if not path.exists():
        folder.mkdir(exist_ok=True)
        path.write_bytes(content)
    return str(path)
