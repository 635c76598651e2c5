"""What the `config.json` of a Hugging Face transformers model says of its structure.

Only the file is read: transformers is not imported, and code that a repository brings is never run. Every
value is checked for its type, and `Architecture` bounds all sizes.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.architecture import MOST, MOST_BLOCKS
from analysis.models.convert import UnsupportedModelError
from analysis.models.huggingface.families import (
    BOTH,
    CLASSES,
    DEFAULTS,
    FAMILIES,
    FEATURES,
    MEANS,
    OTHERS,
    PROJECTION,
    TEACHER,
    Family,
)
from analysis.models.huggingface.fields import Values, flag, number, text, whole
from analysis.models.preprocess import CHANNELS
from analysis.vit import Architecture, BlockWidths

CONFIG_FILE = "config.json"
OURS = "prunescope"  # the model_type of a bundle that was exported for transformers
MOST_LABEL = 1000  # characters
NUM_LABELS = 2  # in transformers, where a config says nothing

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
}


@dataclass(frozen=True)
class Structure:
    """The architecture that a config describes, and what is needed to fill it with weights.

    `grid` is that of the position embedding as stored, `rope_theta` the base of rotary positions, and `notes`
    are sentences for the user about what is left out or read otherwise than transformers does.
    """

    arch: Architecture
    family: Family
    class_name: str
    gives: str
    labels: tuple[str, ...]
    grid: tuple[int, int]
    notes: tuple[str, ...]
    rope_theta: float


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a transformers model; timm's names one `architecture` instead."""
    return "architecture" not in config and ("model_type" in config or "auto_map" in config)


def structure_of(
    config: Mapping[str, Any],
    name: str,
    *,
    taken: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Structure:
    """The structure that a config describes; `name` is for messages.

    `taken` is the size of the images that the preprocessing gives; models that fit their position embedding
    to each image take it. `image_size` goes before both; `num_classes` 0 drops the head.

    Raises:
        ValueError: a value of another type, or beyond the bounds of an architecture.
        UnsupportedModelError: the model has a part that a plain Vision Transformer does not have.
    """
    model_type = text(config, "model_type", "")
    family = FAMILIES.get(model_type)
    if family is None:
        raise UnsupportedModelError(name, OTHERS.get(model_type) or _unknown(model_type, config))
    class_name = _class_name(config, family)
    gives = _gives(class_name, family, name)
    if num_classes == 0:
        gives = FEATURES
    elif gives not in (FEATURES, CLASSES, TEACHER, PROJECTION, BOTH, MEANS):
        raise UnsupportedModelError(name, f"{gives} ({class_name}); without the classifier it can be read")
    vision = _vision(config, class_name)
    values = Values(vision, DEFAULTS | dict(family.defaults))
    stored = values.pair("image_size")
    size = image_size or (taken if family.resizes and taken else stored)
    if is_beit(model_type) and size != stored:
        raise ValueError(f"{name} has a position bias for images of {stored} pixels: leave that option out")
    labels = labels_of(config)
    arch = _architecture(values, family, model_type, gives, size, _num_classes(config, vision, gives, labels))
    if num_classes not in (None, 0, arch.num_classes):
        raise ValueError(f"{name} has {arch.num_classes} classes, not {num_classes}; leave that option out")
    patch = arch.patch_size
    return Structure(
        arch,
        family,
        class_name,
        gives,
        labels if gives in (CLASSES, TEACHER, BOTH, MEANS) and len(labels) == arch.num_classes else (),
        (stored[0] // patch[0], stored[1] // patch[1]),
        tuple(_notes(config, gives, arch, stored)),
        number(vision, "rope_theta", 100.0),
    )


def is_beit(model_type: str) -> bool:
    """Whether scores get a number by the distance of two patches, and patches are averaged."""
    return model_type in ("beit", "data2vec-vision")


def _unknown(model_type: str, config: Mapping[str, Any]) -> str:
    if model_type == OURS:
        return "it was exported by PruneScope, but the files of the bundle (architecture.json, ...) are gone"
    if "auto_map" in config and not model_type:
        return "it needs code of its own (`auto_map`), which is not run"
    extra = "; it brings code of its own (`auto_map`), which is not run" if "auto_map" in config else ""
    return f"its model_type {model_type[:60]!r} is none of {', '.join(FAMILIES)}{extra}"


def _class_name(config: Mapping[str, Any], family: Family) -> str:
    classes = config.get("architectures")
    if classes in (None, []):
        return next(iter(family.classes))  # the model without a head
    if not isinstance(classes, list) or not isinstance(classes[0], str):
        raise ValueError(f"`architectures` must be a list of names, got {reprlib.repr(classes):.60}")
    return classes[0]


def _gives(class_name: str, family: Family, name: str) -> str:
    if class_name not in family.classes:
        raise UnsupportedModelError(
            name, f"its class {class_name[:60]} is none of {', '.join(family.classes)}"
        )
    return family.classes[class_name]


def _vision(config: Mapping[str, Any], class_name: str) -> Mapping[str, Any]:
    """The part about the image tower, of a model that has a text tower as well."""
    inner = config.get("vision_config")
    if inner is None:
        return config
    if not isinstance(inner, dict):
        raise ValueError(f"`vision_config` must be an object, got {reprlib.repr(inner):.60}")
    inner = {name: value for name, value in inner.items() if value is not None}
    if class_name != "CLIPModel":
        return inner
    return {**inner, "projection_dim": config.get("projection_dim", 512)}


def _num_classes(
    config: Mapping[str, Any], vision: Mapping[str, Any], gives: str, labels: tuple[str, ...]
) -> int:
    if gives == FEATURES:
        return 0
    if gives == PROJECTION:
        return whole(vision, "projection_dim", 512, MOST["num_classes"])
    return len(labels) or whole(config, "num_labels", NUM_LABELS, MOST["num_classes"])


def _architecture(
    values: Values, family: Family, model_type: str, gives: str, size: tuple[int, int], num_classes: int
) -> Architecture:
    if values.whole("num_channels") != CHANNELS:
        raise ValueError(
            f"`num_channels` must be {CHANNELS}, as images are read as RGB, "
            f"got {values.whole('num_channels')}"
        )
    width, heads = values.whole("hidden_size"), values.whole("num_attention_heads")
    if width % heads and "head_dim" not in values.said:
        raise ValueError(
            f"`hidden_size` must be a multiple of `num_attention_heads`, got {width} and {heads}"
        )
    head = whole(values.said, "head_dim", 1, MOST["qk"]) if "head_dim" in values.said else width // heads
    block = BlockWidths(heads, head, head, _neurons(values, family, width))
    depth = whole(values.said, "num_hidden_layers", 12, MOST_BLOCKS)
    registers = 0
    if model_type in ("dinov2_with_registers", "dinov3_vit"):
        usual = 4 if model_type == "dinov2_with_registers" else 0
        registers = whole(values.said, "num_register_tokens", usual, MOST["registers"], least=0)
    said, beit, averages = values.said, is_beit(model_type), False
    if beit:
        averages = flag(said, "use_mean_pooling", True)
    attends = model_type.startswith("siglip") and gives == FEATURES and flag(said, "vision_use_head", True)
    biases = [
        name for name in ("query_bias", "key_bias", "value_bias") if flag(said, name, name != "key_bias")
    ]
    swiglu = family.mlp_ratio and flag(said, "use_swiglu_ffn", False)
    # without a second head, DeiT's distillation token takes part in attention only: a register
    unread_token = model_type == "deit" and gives != TEACHER
    return Architecture(
        image_size=size,
        patch_size=values.pair("patch_size"),
        embed_dim=width,
        blocks=(block,) * depth,
        num_classes=num_classes,
        scale=head**-0.5,
        class_token=family.class_token,
        distilled=gives == TEACHER,
        registers=registers + unread_token,
        pos_embed_prefix=family.class_token
        and not (registers or family.rope)
        and not (beit and not flag(said, "use_absolute_position_embeddings", False)),
        layer_scale=family.layer_scale or (beit and said.get("layer_scale_init_value", 0.1) != 0),
        qkv_bias=bool(biases) if family.rope else flag(said, "qkv_bias", True),
        pre_norm=family.pre_norm,
        pool=_pool(family, gives, attends=attends, averages=averages),
        norm_before_pool=not averages,
        norm_eps=values.number("layer_norm_eps"),
        activation="silu" if swiglu else _activation(text(said, "hidden_act", values.defaults["hidden_act"])),
        final_norm=gives != MEANS,
        pool_heads=heads if attends else 0,
        pool_width=width if attends else 0,
        pool_mlp=values.whole("intermediate_size") if attends else 0,
        gated=swiglu or (family.rope and flag(said, "use_gated_mlp", False)),
        rope=family.rope,
        position_bias=beit
        and (
            flag(said, "use_relative_position_bias", False)
            or flag(said, "use_shared_relative_position_bias", False)
        ),
    )


def _pool(family: Family, gives: str, *, attends: bool, averages: bool) -> str:
    if attends:
        return "attention"
    if gives == BOTH:
        return "both"
    return "token" if family.class_token and gives != MEANS and not averages else "avg"


def _neurons(values: Values, family: Family, width: int) -> int:
    if not family.mlp_ratio:
        return values.whole("intermediate_size")
    neurons = int(width * min(number(values.said, "mlp_ratio", 4), MOST["mlp"]))
    if flag(values.said, "use_swiglu_ffn", False):
        return (int(neurons * 2 / 3) + 7) // 8 * 8
    return neurons


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(f"`hidden_act` must be one of {', '.join(_ACTIVATIONS)}, got {name[:60]!r}")
    return _ACTIVATIONS[name]


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names in `id2label`, in the order of the logits, made-up ones included.

    Raises:
        ValueError: it is no mapping of the numbers from 0 to names.
    """
    found = config.get("id2label")
    if found is None:
        return ()
    if not isinstance(found, dict) or len(found) > MOST["num_classes"]:
        raise ValueError(f"`id2label` must map at most {MOST['num_classes']:,} numbers to names")
    names = [found.get(str(index)) for index in range(len(found))]
    for index, name in enumerate(names):
        if not isinstance(name, str) or len(name) > MOST_LABEL:
            raise ValueError(f"`id2label` must have a name for each class from 0 on, `{index}` has none")
    return tuple(str(name) for name in names)


def are_made_up(labels: tuple[str, ...]) -> bool:
    """Whether these are `LABEL_0`, `LABEL_1`, .. as transformers writes where nobody named the classes."""
    return all(label == f"LABEL_{index}" for index, label in enumerate(labels))


def _notes(config: Mapping[str, Any], gives: str, arch: Architecture, stored: tuple[int, int]) -> list[str]:
    notes = []
    if "auto_map" in config:
        notes.append("code that it brings (auto_map) is not run")
    if gives == PROJECTION:
        notes.append("the projection to the space of texts is its head, without class names")
    if arch.image_size != stored and not arch.rope:
        rows, columns = arch.image_size
        notes.append(f"its position embedding is resampled for images of {rows} x {columns}")
    return notes
