"""Which known models the weights in a file fit, for users who have a file and not its timm name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from analysis.models.candidates import Candidate
from analysis.models.layouts import Shapes, shapes_in
from analysis.models.local_weights import found_in
from analysis.models.timm_source import skeleton

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
    "vit_small_patch16_dinov3",
    "vit_small_plus_patch16_dinov3",
    "vit_base_patch16_dinov3",
    "vit_large_patch16_dinov3",
    "vit_huge_plus_patch16_dinov3",
    "vit_small_patch16_dinov3_qkvb",
    "vit_small_plus_patch16_dinov3_qkvb",
    "vit_base_patch16_dinov3_qkvb",
    "vit_large_patch16_dinov3_qkvb",
    "vit_huge_plus_patch16_dinov3_qkvb",
    "vit_base_patch16_siglip_224",  # the image size is read off the position embedding
    "vit_base_patch32_siglip_256",
    "vit_large_patch16_siglip_256",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch16_siglip_256",
    "vit_giantopt_patch16_siglip_256",
)
_WIDTHS = {
    "tiny": 192,
    "small": 384,
    "base": 768,
    "large": 1024,
    "huge": 1280,
    "so400m": 1152,
    "giantopt": 1536,
}
_FREE = ("head.", "head_dist.", "pos_embed", "norm.", "fc_norm.")  # may be of other sizes, or not there


def fitting_names(file: Path) -> tuple[str, ...]:
    """The timm names of known models that the weights in a file fit, likeliest first; none is no error.

    Raises:
        ValueError: the file cannot be read, could run code, or holds no Vision Transformer at all.
    """
    found: list[str] = []
    for candidate in found_in(file):
        names = _names_of(candidate)
        found += [name for name in names if name not in found]
    hint = file.name.lower()
    return tuple(sorted(found, key=lambda name: name.partition("_")[0] not in re.split(r"[^a-z0-9]+", hint)))


def _names_of(candidate: Candidate) -> Sequence[str]:
    try:
        got = _split_bias(shapes_in(candidate))
    except (ValueError, RuntimeError):  # a shape that its layout does not know
        return ()
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
    return shapes_in(Candidate(skeleton(name, None, None).state_dict(), "timm", name))


def _fits(got: Shapes, expected: Shapes) -> bool:
    """Whether both have the same tensors, of the same shapes, but for those that are adapted.

    Positions may be of another number, but where a model turns its queries and keys there must be none.
    """
    fixed, given = ({k: v for k, v in one.items() if not k.startswith(_FREE)} for one in (expected, got))
    return fixed == given and ("pos_embed" in got) == ("pos_embed" in expected)


def _split_bias(got: Shapes) -> Shapes:
    """The names that timm gives to the tensors of DINOv3's own files: no bias of keys, no fixed tensors."""
    if "storage_tokens" not in got:
        return got
    split: Shapes = {}
    for name, shape in got.items():
        if name.endswith("attn.qkv.bias"):
            for part in ("q_bias", "v_bias"):
                split[name.replace("qkv.bias", part)] = (shape[0] // 3,)
        elif not name.endswith((".periods", ".bias_mask")):
            split["reg_token" if name == "storage_tokens" else name] = shape
    return split
