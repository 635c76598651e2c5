"""Find Vision Transformers among the objects of a loaded weights file, by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

MOST_NESTED = 8  # objects around the weights of a checkpoint
MOST_DICTIONARIES = 10_000  # that are looked at
MOST_LISTED = 64  # of a list or tuple that are looked at
MOST_CANDIDATES = 32
BESIDE = "../"  # begins the name of a classifier that lies beside the weights, not among them

# By layout: how the name of the patch embedding ends, and a tensor that must lie beside it, if any.
PATCH_EMBEDDINGS = {
    "timm": ("patch_embed.proj.weight", None),
    "CLIP": ("conv1.weight", "class_embedding"),
    "torchvision": ("conv_proj.weight", "class_token"),
    "Hugging Face": ("embeddings.patch_embeddings.projection.weight", None),
    "Hugging Face CLIP": ("embeddings.patch_embedding.weight", "embeddings.class_embedding"),
    "JAX": ("embedding/kernel", None),
}
_CLASSIFIER = re.compile(
    r"(head|fc|classifier|cls_classifier|distillation_classifier|visual_projection|head\.proj)\.(weight|bias)"
)
_AVERAGES = {"ema", "teacher", "average", "averaged", "avg", "momentum", "swa", "target", "shadow"}
# added inside of names by torch.compile, FSDP and activation checkpointing
_WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


@dataclass(frozen=True)
class Candidate:
    """Tensors that hold a patch embedding, named without their common prefix, and where they lie.

    A classifier that lies beside them, as where the prefix is that of a backbone, is named with `BESIDE`.
    """

    state: Mapping[str, Tensor]
    layout: str
    where: str

    @property
    def is_average(self) -> bool:
        """Whether its place is called an average of weights over a training, or a teacher."""
        return not _AVERAGES.isdisjoint(re.split(r"[^a-z0-9]+", self.where.lower().replace("opt/target", "")))


def candidates(loaded: Any) -> tuple[Candidate, ...]:
    """All places that hold a Vision Transformer, averages first, otherwise in the order of the file."""
    found: list[Candidate] = []
    for path, names in _Walk(loaded):
        tensors = {
            _WRAPPERS.sub("", name): value
            for name, value in dict.items(names)
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        found += _among(tensors, path)
        if len(found) >= MOST_CANDIDATES:
            break
    return tuple(sorted(found[:MOST_CANDIDATES], key=lambda one: not one.is_average))


def _among(tensors: Mapping[str, Tensor], path: tuple[str, ...]) -> Iterator[Candidate]:
    prefixes = dict(list(_prefixes(tensors))[:MOST_CANDIDATES])
    for prefix, layout in prefixes.items():
        within = tuple(one for one in prefixes if one.startswith(prefix) and one != prefix)
        state = {
            name[len(prefix) :]: value
            for name, value in tensors.items()
            if name.startswith(prefix) and not (within and name.startswith(within))
        }
        where = ".".join([*path, *([prefix[:-1]] if prefix else [])]) or "the top level"
        yield Candidate(state | _classifier_beside(tensors, prefix), layout, where)


def _prefixes(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for name in tensors:
        for layout, (ending, companion) in PATCH_EMBEDDINGS.items():
            prefix = name.removesuffix(ending)
            fits = prefix != name and prefix[-1:] in ("", ".", "/")
            if fits and (companion is None or prefix + companion in tensors):
                yield prefix, layout


def _classifier_beside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    if not prefix.endswith("."):
        return {}
    parent = prefix[: prefix[:-1].rfind(".") + 1]
    names = (name for name in tensors if name.startswith(parent) and not name.startswith(prefix))
    found = ((name, _CLASSIFIER.fullmatch(name[len(parent) :])) for name in names)
    return {BESIDE + match[0]: tensors[name] for name, match in found if match}


def named_tensors(loaded: Any, source: object) -> dict[str, Any]:
    """The dictionary with the most tensors, or `loaded` itself where there is none.

    Raises:
        ValueError: it is no dictionary of names, or it contains itself.
    """
    walk = _Walk(loaded)
    most, best = 0, loaded
    for _, names in walk:
        count = sum(isinstance(value, Tensor) for value in dict.values(names))
        if count > most and all(isinstance(name, str) for name in dict.keys(names)):
            most, best = count, names
    if not most and walk.is_cut:
        raise ValueError(f"{source} must hold named tensors, got objects nested more than {MOST_NESTED} deep")
    if (
        not isinstance(best, dict)
        or not len(best)
        or not all(isinstance(name, str) for name in dict.keys(best))
    ):
        raise ValueError(f"{source} must hold named tensors (a state_dict), got {_kind(loaded)}")
    return _without_wrappers(dict(dict.items(best)))


def _kind(loaded: Any) -> str:
    if not isinstance(loaded, dict):
        return type(loaded).__name__
    return "a dict whose keys are no names" if len(loaded) else "an empty dict"


_HOLDERS = (dict, list, tuple)


class _Walk:
    """The dictionaries of a checkpoint with the keys that lead to them, each once, those around first.

    They may lie in lists and tuples, too, among the first.

    `is_cut` tells afterwards whether some were left out: one contains itself, or they are nested too deeply.
    """

    def __init__(self, loaded: Any) -> None:
        self.loaded, self.is_cut = loaded, False

    def __iter__(self) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
        seen: set[int] = set()
        waiting: list[tuple[tuple[str, ...], tuple[int, ...], Any]] = [((), (), self.loaded)]
        while waiting:
            path, around, found = waiting.pop()
            if not isinstance(found, _HOLDERS):
                continue
            if id(found) in around or len(path) > MOST_NESTED or len(seen) >= MOST_DICTIONARIES:
                self.is_cut = True
            elif id(found) not in seen:
                seen.add(id(found))
                if isinstance(found, dict):
                    yield path, found
                items = dict.items(found) if isinstance(found, dict) else enumerate(found[:MOST_LISTED])
                inner = [(key, value) for key, value in items if isinstance(value, _HOLDERS)]
                around = (*around, id(found))
                waiting += [((*path, str(key)[:80]), around, value) for key, value in reversed(inner)]


def _without_wrappers(named: dict[str, Any]) -> dict[str, Any]:
    """Names without what DistributedDataParallel and torch.compile put before them."""
    return {_WRAPPERS.sub("", name).removeprefix("module."): value for name, value in named.items()}
