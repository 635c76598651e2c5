"""Weights of a file for a timm model: which of those in the file fit, and what else the file tells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from analysis.models.candidates import Candidate
from analysis.models.layouts import Shapes, shapes_in, to_timm
from analysis.models.weights import checked, read_candidates, read_weights

# they may be of other sizes, or not there, in weights that fit
_ADAPTED = ("head.", "head_dist.", "pos_embed", "norm.", "fc_norm.")


@dataclass(frozen=True)
class LocalWeights:
    """Tensors by timm's names, and what to tell about where they were found: a sentence each."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_local(file: Path, model: Any) -> LocalWeights:
    """The weights in a file that fit a timm model; the averaged ones where there are several.

    Raises:
        ValueError: the file cannot be read, holds no weights of a Vision Transformer, or a tensor in it is
            refused.
    """
    found = found_in(file)
    shapes = shapes_in(Candidate(model.state_dict(), "timm", file.name))
    fitting = [one for one in found if _fits(one, shapes)]
    chosen = (fitting or found)[0]
    converted = to_timm(checked(chosen, file))
    others = ", ".join(one.where for one in found if one is not chosen)
    told = [f"of the weights in {file.name}, those at {chosen.where} are used, not those at {others[:200]}"]
    notes = [*(told if others else []), *converted.notes]
    return LocalWeights(converted.state, tuple(notes))


def found_in(file: Path) -> tuple[Candidate, ...]:
    """The places in a file that hold weights of a Vision Transformer, averages first; at least one.

    Raises:
        ValueError: there is none, the file cannot be read, or an adapter is not merged.
    """
    found = read_candidates(file)
    _require_merged([name for one in found for name in one.state], file)
    if not found:
        names = list(read_weights(file))
        _require_merged(names, file)
        raise ValueError(
            f"{file} holds no Vision Transformer in a layout that is known (docs/models.md): none of its "
            f"{len(names):,} tensors is a patch embedding (the first is {names[0]!r:.80})"
        )
    return found


def _require_merged(names: Sequence[str], file: Path) -> None:
    """Refuse weights with low-rank adapters, as PEFT names them, which are no part of the layers yet."""
    if any(".lora_" in name for name in names):
        raise ValueError(
            f"{file} holds a LoRA adapter: merge it into its model (`merge_and_unload`), and save that"
        )


def _fits(candidate: Candidate, expected: Shapes) -> bool:
    """Whether all tensors of a model are there but for those that are adapted; no value is touched."""
    try:
        got = shapes_in(candidate)
    except (ValueError, RuntimeError):  # a shape that its layout does not know, or a tensor without a shape
        return False
    return all(got.get(name) == shape for name, shape in expected.items() if not name.startswith(_ADAPTED))


def num_classes_of(state: Mapping[str, Tensor]) -> int:
    """The number of classes that a state dict has a classifier for, 0 without one."""
    head = state.get("head.weight")
    return 0 if head is None or head.ndim != 2 else len(head)


def pool_of(state: Mapping[str, Tensor]) -> str | None:
    """The pooling that the final norm tells: timm's `fc_norm` alone means an average of the patches."""
    return "avg" if "fc_norm.weight" in state and "norm.weight" not in state else None


def image_size_of(state: Mapping[str, Tensor], model: Any) -> tuple[int, int] | None:
    """The image size that a position embedding is made for; None if it is that of the model, or not known.

    Of another size than the model's only that of a square grid of patches can be told.
    """
    tokens = state.get("pos_embed")
    if tokens is None or tokens.ndim != 3 or getattr(model, "pos_embed", None) is None:
        return None
    prefix = model.pos_embed.shape[1] - math.prod(model.patch_embed.grid_size)
    patches = tokens.shape[1] - prefix
    side = math.isqrt(max(patches, 0))
    if tokens.shape[1] == model.pos_embed.shape[1] or side < 1 or side * side != patches:
        return None
    rows, columns = model.patch_embed.patch_size
    return side * rows, side * columns
