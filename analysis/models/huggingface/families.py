"""The models of transformers that can be read, by model type and class, and why others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FEATURES, CLASSES, TEACHER, PROJECTION = "features", "classes", "teacher", "projection"
BOTH = "classes of the class token beside the mean of the patches"  # of DINOv2
MEANS = "classes of the mean of the patches, without a final norm"  # of CLIP


@dataclass(frozen=True)
class Family:
    """A kind of transformers model: its classes with what each gives, and what a config may leave out.

    A class maps to one of `FEATURES`, `CLASSES`, `TEACHER`, `PROJECTION`, `BOTH`, `MEANS`, or else to the
    reason why it is refused. `resizes` says that the model itself fits its position embedding to each image,
    `antialias` how. `mlp_ratio` says that the config gives neurons by their ratio to the width.
    """

    classes: Mapping[str, str]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    class_token: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    mlp_ratio: bool = False
    rope: bool = False
    resizes: bool = False
    antialias: bool = False


def _plain(name: str, *pretraining: str) -> dict[str, str]:
    own = {f"{name}Model": FEATURES, f"{name}ForImageClassification": CLASSES}
    return own | {f"{name}{task}": FEATURES for task in pretraining}


def _dinov2(name: str) -> dict[str, str]:
    return {
        f"{name}Model": FEATURES,
        f"{name}Backbone": FEATURES,
        f"{name}ForImageClassification": BOTH,
    }


_CLIP = Family(
    {
        "CLIPVisionModel": FEATURES,
        "CLIPVisionModelWithProjection": PROJECTION,
        "CLIPModel": PROJECTION,
        "CLIPForImageClassification": MEANS,
    },
    {"layer_norm_eps": 1e-5, "patch_size": 32, "hidden_act": "quick_gelu"},
    pre_norm=True,
)
_SIGLIP = Family(
    {
        "SiglipVisionModel": FEATURES,
        "SiglipModel": FEATURES,
        "SiglipForImageClassification": CLASSES,
    },
    {"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
    class_token=False,
)
DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
}
FAMILIES = {
    "vit": Family(_plain("ViT", "ForMaskedImageModeling")),
    "deit": Family(
        _plain("DeiT", "ForMaskedImageModeling") | {"DeiTForImageClassificationWithTeacher": TEACHER}
    ),
    "dinov2": Family(
        _dinov2("Dinov2"),
        {"layer_norm_eps": 1e-6, "patch_size": 14},
        layer_scale=True,
        mlp_ratio=True,
        resizes=True,
    ),
    "dinov2_with_registers": Family(
        _dinov2("Dinov2WithRegisters"),
        {"layer_norm_eps": 1e-6},
        layer_scale=True,
        mlp_ratio=True,
        resizes=True,
        antialias=True,
    ),
    "dinov3_vit": Family(
        {"DINOv3ViTModel": FEATURES, "DINOv3ViTBackbone": FEATURES},
        {
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-5,
        },
        layer_scale=True,
        rope=True,
        resizes=True,
    ),
    "beit": Family({"BeitModel": FEATURES, "BeitForImageClassification": CLASSES}),
    "data2vec-vision": Family(
        {"Data2VecVisionModel": FEATURES, "Data2VecVisionForImageClassification": CLASSES}
    ),
    "vit_mae": Family({"ViTMAEModel": FEATURES, "ViTMAEForPreTraining": FEATURES}),
    "vit_msn": Family(_plain("ViTMSN"), {"layer_norm_eps": 1e-6}),
    "ijepa": Family(_plain("IJepa"), class_token=False),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
}

_AIM = "it pools by an attention of its own kind; timm's aimv2 models, which average, can be read"
_WINDOWS = "it has windowed attention over a hierarchy of resolutions"
_NAFLEX = "it takes sequences of patches of varying length (NaFlex)"
_VIDEO = "it reads videos"
_CONVOLUTIONS = "it is a convolutional network, or one in part"
OTHERS = {
    "dinov3_convnext": _CONVOLUTIONS,
    "aimv2": _AIM,
    "aimv2_vision_model": _AIM,
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "timm_wrapper": "it is a timm model: give its name on the hub or timm's name",
    **dict.fromkeys(("swin", "swinv2", "donut-swin", "maskformer-swin", "hiera", "pvt", "pvt_v2"), _WINDOWS),
    **dict.fromkeys(("videomae", "vivit", "timesformer", "vjepa2"), _VIDEO),
    **dict.fromkeys(
        ("resnet", "convnext", "convnextv2", "cvt", "levit", "mobilevit", "mobilevitv2"), _CONVOLUTIONS
    ),
}
