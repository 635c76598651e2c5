"""Which known models the weights in a file fit, for users who have a file and not its timm name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch

from analysis.models.candidates import Candidate
from analysis.models.layouts import to_timm
from analysis.models.timm_source import skeleton
from analysis.models.weights import read_candidates

# likeliest first; several have the same shapes and differ in their preprocessing alone
KNOWN = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit3_small_patch16_224",
    "deit3_base_patch16_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_small_patch32_224",
    "vit_base_patch16_224",
    "vit_base_patch32_224",
    "vit_base_patch8_224",
    "vit_large_patch16_224",
    "vit_base_patch16_clip_224",
    "vit_base_patch32_clip_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_dinov2",
    "vit_base_patch14_reg4_dinov2",
)
_WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024}
_FREE = ("head.", "head_dist.", "pos_embed", "norm.", "fc_norm.")  # may be of other sizes, or not there

Shapes = Mapping[str, tuple[int, ...]]


def fitting_names(file: Path) -> tuple[str, ...]:
    """The timm names of known models that the weights in a file fit, likeliest first; none is no error.

    Raises:
        ValueError: the file cannot be read, or could run code.
    """
    found: list[str] = []
    for candidate in read_candidates(file):
        names = _names_of(candidate)
        found += [name for name in names if name not in found]
    hint = file.name.lower()
    return tuple(sorted(found, key=lambda name: name.partition("_")[0] not in re.split(r"[^a-z0-9]+", hint)))


def _names_of(candidate: Candidate) -> Sequence[str]:
    try:
        empty = {name: torch.empty(value.shape, device="meta") for name, value in candidate.state.items()}
        state = to_timm(Candidate(empty, candidate.layout, candidate.where)).state
    except (ValueError, RuntimeError):  # a shape that its layout does not know
        return ()
    got = {name: tuple(value.shape) for name, value in state.items()}
    patches = got.get("patch_embed.proj.weight", ())
    if len(patches) != 4:
        return ()
    likely = (
        name for name in KNOWN if f"patch{patches[-1]}_" in name and _WIDTHS[name.split("_")[1]] == patches[0]
    )
    fitting = [name for name in likely if _fits(got, _shapes(name))]
    if candidate.layout == "JAX":  # in which the weights of the vit_ family are published
        fitting.sort(key=lambda name: not name.startswith("vit_"))
    return fitting


@cache
def _shapes(name: str) -> Shapes:
    return {key: tuple(value.shape) for key, value in skeleton(name, None, None).state_dict().items()}


def _fits(got: Shapes, expected: Shapes) -> bool:
    """Whether both have the same tensors, of the same shapes, but for those that are adapted."""
    fixed, given = ({k: v for k, v in one.items() if not k.startswith(_FREE)} for one in (expected, got))
    return fixed == given
