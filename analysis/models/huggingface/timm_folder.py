"""Folders that timm writes for the hub: a `config.json` that names an `architecture`, and weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.formats import in_file
from analysis.models.convert import architecture_of
from analysis.models.huggingface.config import CONFIG_FILE
from analysis.models.huggingface.fields import read_object
from analysis.models.huggingface.source import WEIGHTS_FILES
from analysis.models.preprocess import Preprocess
from analysis.models.timm_source import FromTimm, is_timm, load_timm, preprocess_of, skeleton
from analysis.paths import is_file
from analysis.vit import Architecture

# arguments of a model that its weights tell as well, or that play no part in what it computes
_TOLD = {
    "img_size",
    "num_classes",
    "in_chans",
    "drop_rate",
    "drop_path_rate",
    "proj_drop_rate",
    "attn_drop_rate",
}


def timm_name(folder: Path) -> str | None:
    """The timm name of the model in a folder, or None if its config is not one of timm's.

    Raises:
        ValueError: the config is damaged, or names a model that timm does not have.
    """
    file = folder / CONFIG_FILE
    name = read_object(file).get("architecture") if is_file(file) else None
    if name is None:
        return None
    if not isinstance(name, str) or not is_timm(name):
        raise ValueError(f"{file}: timm has no model of the architecture {name!r:.100}")
    return name


def load_timm_folder(
    folder: Path, name: str, image_size: tuple[int, int] | None, num_classes: int | None
) -> FromTimm:
    """The model in a folder that `timm_name` knows as `name`, with the preprocessing that its config says.

    Raises:
        ValueError: it has no weights or others than its config says, or it is built in another way than
            timm builds a model of that name.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    weights = next((folder / file for file in WEIGHTS_FILES if is_file(folder / file)), None)
    if weights is None:
        raise ValueError(f"{folder} has no weights: it must hold {' or '.join(WEIGHTS_FILES)}")
    _require_usual(folder, name)
    found = load_timm(name, weights, image_size, num_classes)
    preprocess = _preprocess(folder, name, found.model.arch)
    return FromTimm(found.model, preprocess, f"timm {name} of {folder}", found.notes)


def timm_folder_architecture(
    folder: Path, name: str, image_size: tuple[int, int] | None, num_classes: int | None
) -> Architecture:
    """The architecture that a folder's config describes, without its weights.

    Raises:
        ValueError: as `load_timm_folder`.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    _require_usual(folder, name)
    config = read_object(folder / CONFIG_FILE)
    size, classes = config.get("model_args", {}).get("img_size"), config.get("num_classes")
    if image_size is None and isinstance(size, list) and [type(side) for side in size] == [int, int]:
        image_size = size[0], size[1]
    if num_classes is None and type(classes) is int:
        num_classes = classes
    return architecture_of(skeleton(name, image_size, num_classes))


def _require_usual(folder: Path, name: str) -> None:
    """Refuse what changes the network beyond its name, as it could not be told from the weights."""
    file = folder / CONFIG_FILE
    config = read_object(file)
    arguments = config.get("model_args", {})
    if not isinstance(arguments, dict):
        raise ValueError(f"{file}: model_args must be a JSON object")
    usual = getattr(skeleton(name, None, None), "global_pool", None)
    pool = arguments.pop("global_pool", config.get("global_pool", usual))
    known = pool == usual or (pool, usual) == ("avg", "token")  # which has a norm of its own in the weights
    other = sorted(set(arguments) - _TOLD) + ([] if known else ["global_pool"])
    if other:
        raise ValueError(
            f"{file} builds {name} in another way ({', '.join(other)[:100]}): give the model to the library "
            "(`from pruning import prune`) instead of its folder"
        )


def _preprocess(folder: Path, name: str, arch: Architecture) -> Preprocess:
    file = folder / CONFIG_FILE
    config = read_object(file)
    usual: Mapping[str, Any] = skeleton(name, None, None).pretrained_cfg
    said = config.get("pretrained_cfg", config)  # older files have no part of that name
    try:
        labels = config.get("label_names") or said.get("label_names") or said.get("labels")
        return preprocess_of({**usual, **said, "label_names": labels}, arch)
    except Exception as error:  # values of any type lead to all kinds of errors
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise in_file(file, ValueError(f"its preprocessing cannot be read ({reason[:120]})")) from error
