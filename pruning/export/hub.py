"""Uploads of exported files to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pruning.files import OutputError

_MOST_REASON = 200  # characters


def require_hub(repository: str) -> None:
    """Check before the work that files can be pushed to a repository, without asking the hub.

    Raises:
        ValueError: huggingface_hub is not installed, nobody is logged in, the process is offline, or no
            repository can have this name.
    """
    hub = _hub()
    try:
        hub.utils.validate_repo_id(repository)
        named = repository.count("/") == 1
    except ValueError:
        named = False
    if not named:
        raise ValueError(
            f"--push-to-hub must be OWNER/NAME, a repository on the hub, got {repository!r:.100}"
        )
    if hub.constants.HF_HUB_OFFLINE:
        raise ValueError("--push-to-hub needs the network, and HF_HUB_OFFLINE says that there is none")
    if hub.get_token() is None:
        raise ValueError(
            "--push-to-hub needs a token that may write: run `hf auth login`, or set HF_TOKEN "
            "(https://huggingface.co/settings/tokens)"
        )


def push(folder: Path, names: Sequence[str], repository: str) -> str:
    """Upload these files of a folder in one commit; returns the address of the repository.

    A repository that does not exist yet is made, and is private. Other files there stay.

    Raises:
        ValueError: as `require_hub`.
        OutputError: the hub did not take the files, which stay in the folder.
    """
    require_hub(repository)
    api = _hub().HfApi()
    try:
        address = str(api.create_repo(repository, private=True, exist_ok=True))
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(names),
            commit_message="Upload from PruneScope",
        )
    except Exception as error:  # of the HTTP library, or of huggingface_hub
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise OutputError(
            f"the files are in {folder}, but the hub did not take them for {repository} "
            f"({reason[:_MOST_REASON]}): check the name, your token and the network"
        ) from error
    return address


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError as error:
        raise ValueError(
            "--push-to-hub needs the package huggingface_hub: pip install huggingface_hub"
        ) from error
    return huggingface_hub
