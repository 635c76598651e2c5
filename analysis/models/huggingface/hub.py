"""Files of transformers models on the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analysis.formats import in_file
from analysis.models.bundle_files import REQUIRED_FILES
from analysis.models.huggingface.config import CONFIG_FILE, OURS, is_transformers
from analysis.models.huggingface.fields import MOST_BYTES, as_object
from analysis.models.huggingface.images import PROCESSOR_FILES
from analysis.models.huggingface.source import INDEX_FILES, WEIGHTS_FILES, shard_names
from analysis.models.timm_source import HUB, hub_access, require_hub_name
from analysis.paths import is_allowed


def hub_folder(name: str, *, with_weights: bool) -> Path | None:
    """The local copy of a repository that holds a transformers model; None if its config is timm's.

    A bundle that PruneScope exported for transformers has its own files there, too, weights included.

    Raises:
        ValueError: it is not named as one on the hub, or its files cannot be had.
    """
    require_hub_name(name)
    repository = name.removeprefix(HUB)
    with hub_access(name, "the configuration of", "a timm name"):
        file = _download(repository, CONFIG_FILE)
    config = _config(file, name)
    if not is_transformers(config):
        return None
    if not is_allowed(file):
        raise ValueError(
            f"{name} is a transformers model, which is read from the hub's cache, and that folder may not be "
            "opened here; a timm model from the hub works"
        )
    if config.get("model_type") == OURS:
        with hub_access(name, "the files of", "a folder with the bundle"):
            for part in REQUIRED_FILES:
                _download(repository, part)
        return file.parent
    with hub_access(name, "the files of", "a folder that `save_pretrained` wrote"):
        for other in PROCESSOR_FILES:
            if _found(repository, other) is not None:
                break
        if with_weights:
            _download_weights(repository)
    return file.parent


def _config(file: Path, name: str) -> dict[str, Any]:
    if file.stat().st_size > MOST_BYTES:
        raise ValueError(f"{name}: its {CONFIG_FILE} is larger than {MOST_BYTES:,} bytes")
    try:
        return as_object(file.read_bytes())
    except ValueError as error:
        raise in_file(f"{name}: its {CONFIG_FILE}", error) from error


def _download_weights(repository: str) -> None:
    for file, index in zip(WEIGHTS_FILES, INDEX_FILES, strict=True):
        if _found(repository, file) is not None:
            return
        if (found := _found(repository, index)) is not None:
            for shard in shard_names(found):
                _download(repository, shard)
            return


def _download(repository: str, file: str) -> Path:
    from timm.models import _hub

    return Path(_hub.download_from_hf(repository, file))


def _found(repository: str, file: str) -> Path | None:
    """A file that a repository need not have."""
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return _download(repository, file)
    except EntryNotFoundError:  # also where there is no network, and the cache has no such file
        return None
