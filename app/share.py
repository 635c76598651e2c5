"""Serving others: the app listens on this machine alone unless it is started with `--share`.

With `--share` visitors open paths in the named folders only, uploads and waiting runs are bounded, and
nothing is loaded from the hub. docs/security.md says what that protects, and what it does not.
"""

from __future__ import annotations

import argparse
import atexit
import ipaddress
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.models import DEMO, HUB
from analysis.paths import LIMIT, absolute, allowed_folders, is_file, may_be_path, user_path
from pruning.cache import cache_folder
from pruning.jobs import TrialJob
from pruning.runs import MOST_WAITING, runs_root
from pruning.wording import printable

UPLOAD_MB = 512  # of one file
MOST_UPLOADS = 64  # files of all sessions together, which are kept in memory while their session lasts
MOST_UPLOAD_MB = 2048
MOST_KEPT_MB = 8192  # of uploads that runs still need
MOST_WAITING_SHARED = 20  # runs
_PATHS = (
    "model",
    "weights",
    "device",
    "data",
    "calibration",
    "teacher",
    "teacher_weights",
    "test_data",
)  # of jobs
_named: list[Path] = []


def parse(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The arguments of `python -m app`, and those that are Streamlit's."""
    parser = argparse.ArgumentParser(
        prog="python -m app",
        description="Open PruneScope. Further options are Streamlit's, such as --server.port 8502.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--share",
        action="store_true",
        help="listen for other machines too; there is no login, so put a proxy with one in front",
    )
    parser.add_argument(
        "--folder",
        action="append",
        default=[],
        metavar="DIR",
        help="with --share: a folder of models or images that visitors may open (may be given several times)",
    )
    parser.add_argument(
        "--hub", action="store_true", help="with --share: visitors may load models from the Hugging Face hub"
    )
    known, rest = parser.parse_known_args(words)
    if not known.share and (known.folder or known.hub):
        parser.error("--folder and --hub need --share; without it every path may be opened")
    if rest and not rest[0].startswith("-"):  # which Streamlit would hand to the page, and nobody would read
        word = printable(rest[0])
        parser.exit(2, f"error: there is nothing to open by the word {word}: leave it out, or give options\n")
    return known, rest


def options(known: argparse.Namespace) -> list[str]:
    """Streamlit's options for this way of starting the app, to stand before those of the user.

    Raises:
        ValueError: a folder that is to be shared does not exist.
    """
    if not known.share:
        return ["--server.address=localhost"]
    _limit([_shared_folder(text) for text in known.folder])
    if not known.hub:
        os.environ["HF_HUB_OFFLINE"] = "1"
    _bound_uploads()
    return [
        "--server.address=0.0.0.0",
        "--server.headless=true",
        f"--server.maxUploadSize={UPLOAD_MB}",
        "--client.showErrorDetails=none",
    ]


def is_shared() -> bool:
    """Whether this process serves others."""
    return allowed_folders() is not None


def shared_folders() -> tuple[Path, ...]:
    """The folders that were named for visitors."""
    return tuple(_named)


def most_waiting() -> int:
    """How many runs may wait for their turn."""
    return MOST_WAITING_SHARED if is_shared() else MOST_WAITING


def require_allowed(job: Any) -> None:
    """Check that a run reads only what visitors may open; its process might not be limited itself.

    Raises:
        ValueError: it names something else.
    """
    if isinstance(job, TrialJob):  # the job that is tried names the files
        job = job.pruning
    named = [getattr(job, name, None) for name in _PATHS]
    pairs = getattr(job, "models", ())
    named += [said for pair in pairs for said in pair]
    models = {getattr(job, "model", None), getattr(job, "teacher", None), *(pair[0] for pair in pairs)}
    for said in filter(None, named):
        if is_shared() and said != "demo" and not said.startswith(HUB):
            path = said.removeprefix("cifar10:")
            if said not in models or may_be_path(said):
                user_path(path, "the path")


def require_own(folder: Path) -> None:
    """Check that a run is one of this server's, which alone visitors may resume and cancel.

    Raises:
        ValueError: it lies elsewhere; it would not wait for the others, and write into a shared folder.
    """
    if is_shared() and folder.parent != runs_root():
        raise ValueError(
            "This run lies in a shared folder: it can only be looked at, not resumed or cancelled."
        )


def require_upload_room(size: int) -> None:
    """Check that another upload of so many bytes may be kept on disk for a session.

    Raises:
        ValueError: those of all sessions leave no room.
    """
    if is_shared() and _bytes_in(Path(tempfile.gettempdir())) + size > MOST_UPLOAD_MB * 2**20:
        raise ValueError("There is no room for more uploads: try again later.")


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if is_file(file))


def require_room(folder: Path, size: int) -> None:
    """Check that another upload of so many bytes may be kept in `folder` for a run.

    Raises:
        ValueError: the uploads of earlier runs leave no room.
    """
    if not is_shared():
        return
    kept = _bytes_in(folder)
    if kept + size > MOST_KEPT_MB * 2**20:
        raise ValueError(
            f"The images and weights uploaded for earlier runs take up {kept / 2**20:,.0f} MB of at most "
            f"{MOST_KEPT_MB:,}: whoever keeps this server has to delete some of those runs."
        )


def is_private(address: str | None) -> bool:
    """Whether a server at this address can be reached from this machine alone; None stands for every one."""
    if address is None or address == "":
        return False
    if address == "localhost" or address.startswith("unix://"):
        return True
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def _shared_folder(text: str) -> Path:
    folder = user_path(text, "--folder")
    if not folder.is_dir():
        raise ValueError(f"--folder must name a folder that exists, got {text!r}")
    return folder


def _limit(named: Sequence[Path]) -> None:
    """Limit this process, and the runs it starts, to these folders and those that the app itself needs.

    Uploads go to a temporary folder whose name cannot be guessed.
    """
    uploads = tempfile.mkdtemp(prefix="prunescope-")
    atexit.register(shutil.rmtree, uploads, ignore_errors=True)
    tempfile.tempdir = uploads
    _named[:] = [absolute(folder) for folder in named]
    own = [runs_root(), DEMO.parent, cache_folder(), Path(uploads)]  # assets: the demo and the presets
    os.environ[LIMIT] = os.pathsep.join(str(absolute(folder)) for folder in [*_named, *own])


def _bound_uploads() -> None:
    """Refuse an upload that all uploads together leave no room for.

    Streamlit bounds one file, and keeps as many as are sent to its address, whatever a page asks for.
    """
    from starlette.exceptions import HTTPException
    from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager

    add: Any = MemoryUploadedFileManager.add_file

    def add_file(self: MemoryUploadedFileManager, session_id: str, file: Any) -> None:
        kept = [len(old.data) for files in list(self.file_storage.values()) for old in list(files.values())]
        if len(kept) >= MOST_UPLOADS or sum(kept) + len(file.data) > MOST_UPLOAD_MB * 2**20:
            raise HTTPException(413, "There is no room for more uploads: try again later")
        add(self, session_id, file)

    MemoryUploadedFileManager.add_file = add_file  # type: ignore[method-assign]
