"""The hyperparameters of the model: what a Vision Transformer with uneven blocks is, and what is none.

This file needs nothing but Python. In an exported bundle it is the first part of vit.py
(`pruning/bundle/model_code.py`). Axes in comments as in `analysis/vit.py`.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import accumulate
from typing import Any

VERSION = 3  # of architecture.json; files from before there was a version have none
POOLS = ("token", "avg", "both", "attention")
NORMS = ("layer", "rms")
ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu", "silu")
# Bounds of an architecture, far above the largest ViTs in use: a few bytes of JSON must not take gigabytes.
MOST = {
    "image_size": 4096,
    "patch_size": 4096,
    "embed_dim": 2**14,
    "in_channels": 64,
    "num_classes": 2**16,
    "registers": 1024,
    "heads": 1024,
    "qk": 2**13,
    "v": 2**13,
    "mlp": 2**17,
    "merge": 2**13,
    "pool_heads": 1024,
    "pool_width": 2**14,
    "pool_mlp": 2**17,
}
MOST_BLOCKS = 256
MOST_TOKENS = 2**14  # of one image
MOST_WIDE = 2**27  # numbers that one layer puts out for one image: 512 MB
MOST_PARAMETERS = 2**33
SCALES = (1e-6, 1e3)  # least and most; 1/sqrt(head_dim) of a head of 64 channels is 0.125
EPSILONS = (1e-15, 1.0)


@dataclass(frozen=True)
class BlockWidths:
    """Widths of one block: `heads` heads of `qk` query-key and `v` value channels, `mlp` neurons.

    `merge` patch tokens are merged into others behind the attention. A block with no heads has no
    attention (`qk`, `v` and `merge` are 0 then), one with no neurons has no MLP: that half is absent.
    """

    heads: int
    qk: int
    v: int
    mlp: int
    merge: int = 0

    def __post_init__(self) -> None:
        absent = self.heads == 0
        if absent and (self.qk, self.v, self.merge) != (0, 0, 0):
            raise ValueError("a block without heads has no attention: qk, v and merge must be 0 as well")
        for field in fields(self):
            least = 1 if field.name in ("qk", "v") and not absent else 0
            _require_count(f"block width {field.name!r}", getattr(self, field.name), least, MOST[field.name])


@dataclass(frozen=True)
class Architecture:
    """The hyperparameters of a `ViT`: frozen, hashable, stored as JSON.

    `scale` is the factor on the attention scores: 1/sqrt(head_dim) of the dense model as trained, also
    after query-key pairs were removed. `distilled` adds DeiT's distillation token and second head;
    `registers` is the number of DINOv2's register tokens. `pos_embed_prefix` states whether the position
    embedding covers the prefix tokens; `norm_before_pool` whether the final norm comes before pooling
    (timm's `norm`) or after it (timm's `fc_norm`). `norm` is "layer" (LayerNorm) or "rms" (RMSNorm: no
    centring, no bias). `num_classes` 0 means no head: the output is the pooled feature. With
    `skip_unread` the last block computes only the tokens that the classifier or the pooling reads, and no
    keys or values where it can (`absorbs`), for the same output with less work. It needs pool "token", and a
    last block that merges nothing. A block merges at most half of the patch tokens that it is given.

    What follows is off in a plain ViT. `final_norm` False: no norm behind the last block. `pool` is the
    class token ("token"), the mean of the patches ("avg"), the two side by side ("both"; DINOv2's linear
    heads), or a query of its own that attends to them ("attention"; SigLIP), with `pool_heads` heads, width
    `pool_width` and `pool_mlp` neurons; `pool_prefix` counts the prefix tokens among the patches there.
    `patch_norm` is a norm behind the patch embedding, `attn_norm` one in front of `proj`, `mlp_norm` one in
    front of `fc2`, `qk_norm` one of queries and one of keys (Dqk channels, shared by the heads). `gated`
    MLPs multiply each neuron by a second row of `fc1` (SwiGLU, GeGLU). With `rope` queries and keys of
    patches are turned by their place; with `position_bias` scores get a number by the distance of the two
    patches (BEiT).

    Sizes are bounded (`MOST`, `MOST_BLOCKS`, `MOST_TOKENS`, `MOST_WIDE`, `MOST_PARAMETERS`), `scale` by
    `SCALES` and `norm_eps` by `EPSILONS`, all before any memory is taken.

    Raises:
        ValueError: a field of another type, a width below one or above its bound, or a combination that is
            no network.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    embed_dim: int
    blocks: tuple[BlockWidths, ...]
    num_classes: int
    scale: float
    in_channels: int = 3
    class_token: bool = True
    distilled: bool = False
    registers: int = 0
    pos_embed_prefix: bool = True
    layer_scale: bool = False
    qkv_bias: bool = True
    pre_norm: bool = False
    pool: str = "token"
    norm_before_pool: bool = True
    norm: str = "layer"
    norm_eps: float = 1e-6
    activation: str = "gelu"
    skip_unread: bool = False
    final_norm: bool = True
    pool_prefix: bool = False
    pool_heads: int = 0
    pool_width: int = 0
    pool_mlp: int = 0
    patch_norm: bool = False
    attn_norm: bool = False
    mlp_norm: bool = False
    qk_norm: bool = False
    gated: bool = False
    rope: bool = False
    position_bias: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            _require_type(field.name, getattr(self, field.name), str(field.type))
        pooling = int(self.pool == "attention")
        least = {"embed_dim": 1, "num_classes": 0, "in_channels": 1, "registers": 0}
        least |= {"pool_heads": pooling, "pool_width": pooling, "pool_mlp": pooling}
        for name, fewest in least.items():
            _require_count(name, getattr(self, name), fewest, MOST[name])
        for size, patch in zip(self.image_size, self.patch_size, strict=True):
            _require_count("patch_size", patch, 1, MOST["patch_size"])
            _require_count("image_size", size, patch, MOST["image_size"])
        _require_blocks(self.blocks)
        _require_range("scale", self.scale, SCALES)
        _require_range("norm_eps", self.norm_eps, EPSILONS)
        self._require_combination()
        self._require_room()

    def _require_combination(self) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {self.pool!r}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {self.norm!r}")
        if self.pool in ("token", "both") and not self.class_token:
            raise ValueError(f"pool {self.pool!r} needs a class token; use pool 'avg'")
        if self.distilled and not (self.class_token and self.pool == "token" and self.norm_before_pool):
            raise ValueError("a distilled model needs a class token, pool 'token' and norm_before_pool")
        if not self.norm_before_pool and (self.pool in ("both", "attention") or not self.final_norm):
            raise ValueError("norm_before_pool false needs pool 'token' or 'avg', and final_norm")
        if self.pool == "attention" and self.pool_width % self.pool_heads:
            raise ValueError(f"pool_width must be a multiple of pool_heads, got {self.pool_width}")
        if self.pool != "attention" and (self.pool_heads, self.pool_width, self.pool_mlp) != (0, 0, 0):
            raise ValueError("pool_heads, pool_width and pool_mlp belong to pool 'attention'")
        if self.pool_prefix and self.pool not in ("avg", "attention"):
            raise ValueError("pool_prefix belongs to pool 'avg' or 'attention'")
        if self.rope and any(block.qk % 2 for block in self.blocks):
            raise ValueError("with rope the channels of queries and keys go by twos: qk must be even")
        if self.skip_unread and self.pool != "token":
            raise ValueError("skip_unread needs pool 'token': average pooling reads every patch")
        if self.skip_unread and self.blocks[-1].merge:
            raise ValueError(
                "skip_unread needs merge 0 in the last block: no patch tokens are computed there"
            )
        prefix = len(self.prefix_names)
        for index, (block, given) in enumerate(zip(self.blocks, self.tokens[:-1], strict=True)):
            if 2 * block.merge > given - prefix:
                raise ValueError(
                    f"block {index} can merge at most half of its {given - prefix} patch tokens, "
                    f"got merge {block.merge}"
                )

    def _require_room(self) -> None:
        """Bound what the fields ask for together."""
        if self.num_tokens > MOST_TOKENS:
            raise ValueError(
                f"image_size, patch_size and registers give {self.num_tokens:,} tokens, "
                f"at most {MOST_TOKENS:,} are allowed"
            )
        wide = self.num_tokens * max(self.feature_dim, *(_widest(self, block) for block in self.blocks))
        if wide > MOST_WIDE:
            raise ValueError(
                f"the widest layer gives {wide:,} numbers for one image, at most {MOST_WIDE:,} are allowed; "
                "choose fewer tokens or smaller widths"
            )
        weights = self.embed_dim * sum(_rows(self, block) for block in self.blocks)
        weights += self.embed_dim * self.in_channels * self.patch_size[0] * self.patch_size[1]
        weights += 2 * self.pool_width * (self.embed_dim + self.pool_width + self.pool_mlp)
        weights += self.distances * sum(block.heads for block in self.blocks)
        if weights > MOST_PARAMETERS:
            raise ValueError(
                f"the model would have {weights:,} weights, at most {MOST_PARAMETERS:,} are allowed"
            )

    @property
    def depth(self) -> int:
        """Number of blocks L."""
        return len(self.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size[0], self.image_size[1] // self.patch_size[1]

    @property
    def prefix_names(self) -> tuple[str, ...]:
        """Names of the tokens before the patches, in order: class, distillation, register 1.."""
        names = ["class"] * self.class_token + ["distillation"] * self.distilled
        return (*names, *(f"register {i + 1}" for i in range(self.registers)))

    @property
    def num_tokens(self) -> int:
        """Tokens N of one image, prefix tokens included."""
        return len(self.prefix_names) + self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens that every block is given, and at the end those that the last one gives."""
        counts = accumulate((-block.merge for block in self.blocks), initial=self.num_tokens)
        *given, left = counts
        return (*given, 1 + self.distilled if self.skip_unread else left)

    @property
    def computed_tokens(self) -> int:
        """Number of tokens the last block gives: with `skip_unread` only those the classifier reads."""
        return self.tokens[-1]

    @property
    def feature_dim(self) -> int:
        """Width of the pooled feature."""
        if self.pool == "attention":
            return self.pool_width
        return self.embed_dim * (2 if self.pool == "both" else 1)

    @property
    def absorbs(self) -> bool:
        """Whether a lean last block does without keys and values: they have neither places nor norms."""
        return not (self.rope or self.qk_norm or self.position_bias)

    @property
    def distances(self) -> int:
        """Numbers of a head's `position_bias`: one for each offset of patches, three for prefix tokens."""
        rows, columns = self.grid
        return (2 * rows - 1) * (2 * columns - 1) + 3 if self.position_bias else 0

    @property
    def merges(self) -> bool:
        """Whether any block merges tokens."""
        return any(block.merge for block in self.blocks)

    def to_json(self) -> str:
        """Serialise; `from_json` gives an equal Architecture back."""
        return json.dumps({"version": VERSION} | asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Rebuild from `to_json`.

        Raises:
            ValueError: not JSON, of a later version, or a field that is missing, unknown or of another type.
        """
        try:
            data: Any = json.loads(text, object_pairs_hook=_each_once)
        except RecursionError as error:
            raise ValueError("this is nested too deeply to be read as JSON") from error
        except ValueError as error:
            long = "Exceeds the limit" in str(error)  # Python reads numbers of some thousand digits only
            reason = "a number in it has thousands of digits" if long else error
            raise ValueError(f"this cannot be read as JSON: {reason}") from error
        if isinstance(data, dict):
            _require_version(data.pop("version", 0))
        found = _fields(cls, data)
        _require_blocks(found["blocks"])
        blocks = [_fields(BlockWidths, one, f"blocks[{index}]") for index, one in enumerate(found["blocks"])]
        return cls(**found | {"blocks": tuple(BlockWidths(**block) for block in blocks)})


# What a field of an architecture may hold, by its annotation: a test, and what must be, in words.
_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda value: type(value) is int, "a whole number"),
    "float": (lambda value: type(value) in (int, float) and abs(value) < float("inf"), "a finite number"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "str": (lambda value: type(value) is str, "text"),
    "tuple[int, int]": (
        lambda value: type(value) is tuple and list(map(type, value)) == [int, int],
        "two whole numbers",
    ),
    "tuple[BlockWidths, ...]": (lambda value: type(value) is tuple, "a list of blocks"),
}


def _require_type(name: str, value: object, annotation: str) -> None:
    fits, words = _TYPES[annotation]
    if not fits(value):
        raise ValueError(f"{name} must be {words}, got {_shown(value)}")


def _shown(value: object) -> str:
    """A value for a sentence, cut short; however deep or long it is."""
    return f"{reprlib.repr(value):.60}"


def _require_blocks(blocks: Sequence[object]) -> None:
    if not blocks:
        raise ValueError("an Architecture needs at least one block")
    if len(blocks) > MOST_BLOCKS:
        raise ValueError(f"blocks must be at most {MOST_BLOCKS}, got {len(blocks):,}")


def _require_range(name: str, value: float, bounds: tuple[float, float]) -> None:
    least, most = bounds
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least:g} to {most:g}, got {_shown(value)}")


def _rows(arch: Architecture, block: BlockWidths) -> int:
    """Weights of a block for each channel of the embedding."""
    return 2 * block.heads * (block.qk + block.v) + (2 + arch.gated) * block.mlp


def _widest(arch: Architecture, block: BlockWidths) -> int:
    """Numbers for each token in the widest layer; attention pads queries, keys and values to one width."""
    return max(arch.embed_dim, 3 * block.heads * max(block.qk, block.v), (1 + arch.gated) * block.mlp)


def _fields(kind: Any, data: object, place: str = "") -> dict[str, Any]:
    """The fields of a dataclass from a JSON object: all that it needs, no others, each of its type."""
    if not isinstance(data, dict):
        raise ValueError(f"{place or 'this'} must be an object, got {_shown(data)}")
    found = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    known = {field.name: field for field in fields(kind)}
    begin = f"{place}." if place else ""
    for name in found:
        if name not in known:
            raise ValueError(f"there is no field {begin}{name:.60} in an architecture")
    for name, field in known.items():
        if name in found:
            _require_type(begin + name, found[name], str(field.type))
        elif field.default is MISSING:
            raise ValueError(f"{begin}{name} is missing")
    return found


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name:.60} stands twice in one object")
        found[name] = value
    return found


def _require_version(found: Any) -> None:
    _require_count("version", found, 0)
    if found > VERSION:
        raise ValueError(
            f"this was written by a later PruneScope (version {found}; this one reads up to {VERSION}): "
            "update PruneScope"
        )


def _require_count(name: str, value: object, least: int, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {_shown(value)}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {_shown(value)}")
