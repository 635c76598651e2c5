"""Convert timm's plain Vision Transformers to `vit.py`; refuse all other models with the reason."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from analysis.vit import Architecture, BlockWidths, ViT

TOLERANCE = 1e-4  # relative to the largest logit; two float32 implementations differ by about 1e-6

_OTHER_CLASSES = {
    "Eva": "it belongs to timm's Eva family (rotary position embedding RoPE, SwiGLU, split q, k and v)",
    "Beit": "its attention adds a relative position bias",
    "VisionTransformerRelPos": "its attention adds a relative position bias",
    "VisionTransformerSAM": "it has windowed attention with a relative position bias",
    "NaFlexVit": "it takes sequences of patches of varying length (NaFlex)",
}
_OTHER_BLOCKS = {
    "ParallelScalingBlock": "attention and MLP run in parallel",
    "DiffParallelScalingBlock": "attention and MLP run in parallel, with differential attention",
    "ParallelThingsBlock": "several attentions and MLPs run in parallel",
    "ResPostBlock": "its norms come after attention and MLP",
}


class UnsupportedModelError(ValueError):
    """A model with a part that a plain Vision Transformer does not have."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"{name} is not supported: {reason}; "
            "a plain Vision Transformer such as deit_tiny_patch16_224 works"
        )


def from_timm(timm_model: nn.Module) -> ViT:
    """Convert a timm Vision Transformer and check that both compute the same logits.

    The timm model is left unchanged; the ViT is in evaluation mode with float32 copies of its weights.

    Raises:
        UnsupportedModelError: the model has a part that `ViT` cannot express.
    """
    arch = architecture_of(timm_model)
    with torch.device("meta"):
        model = ViT(arch)
    state = {name: value.detach().to("cpu", torch.float32).clone() for name, value in _state(timm_model)}
    model.load_state_dict(state, assign=True)
    model.eval()
    _verify(model, timm_model)
    return model


def architecture_of(timm_model: nn.Module) -> Architecture:
    """The `Architecture` of a timm Vision Transformer, which may be on the meta device.

    Raises:
        UnsupportedModelError: the model has a part that `ViT` cannot express.
    """
    reason = next(_obstacles(timm_model), None)
    if reason is not None:
        raise UnsupportedModelError(_name(timm_model), reason)
    arch = _read_architecture(timm_model)
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in ViT(arch).state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in _state(timm_model)}
    if ours != theirs:
        unmatched = min(set(ours.items()) ^ set(theirs.items()))[0]
        raise UnsupportedModelError(_name(timm_model), f"its parameter {unmatched} does not fit a plain ViT")
    return arch


def _read_architecture(m: Any) -> Architecture:
    attn = m.blocks[0].attn
    return Architecture(
        image_size=tuple(m.patch_embed.img_size),
        patch_size=tuple(m.patch_embed.patch_size),
        embed_dim=m.embed_dim,
        blocks=tuple(
            BlockWidths(b.attn.num_heads, b.attn.head_dim, b.attn.head_dim, b.mlp.fc1.out_features)
            for b in m.blocks
        ),
        num_classes=m.num_classes,
        scale=attn.scale,
        in_channels=m.patch_embed.proj.in_channels,
        class_token=m.cls_token is not None,
        distilled=getattr(m, "dist_token", None) is not None,
        registers=m.num_reg_tokens,
        pos_embed_prefix=not m.no_embed_class,
        layer_scale=not isinstance(m.blocks[0].ls1, nn.Identity),
        qkv_bias=attn.qkv.bias is not None,
        pre_norm=not isinstance(m.norm_pre, nn.Identity),
        pool=m.global_pool,
        norm_before_pool=not isinstance(m.norm, nn.Identity),
        norm_eps=m.blocks[0].norm1.eps,
        activation=_activation(m.blocks[0].mlp.act) or "",
    )


def _obstacles(m: Any) -> Iterator[str]:
    """Reasons why a plain ViT cannot express the model; none if it can."""
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(m, VisionTransformer):
        yield _foreign(m)
        return
    yield from _embedding_obstacles(m)
    for index, block in enumerate(m.blocks):
        yield from (f"{reason} (blocks.{index})" for reason in _block_obstacles(block))
    yield from _end_obstacles(m)
    norms = [module for module in m.modules() if isinstance(module, nn.LayerNorm)]
    if len({norm.eps for norm in norms}) != 1:
        yield "its LayerNorms differ in epsilon"
    if len({(b.attn.scale, _activation(b.mlp.act)) for b in m.blocks}) != 1:
        yield "its blocks differ in attention scale or activation"


def _foreign(m: nn.Module) -> str:
    kind = type(m).__name__
    if kind in _OTHER_CLASSES:
        return _OTHER_CLASSES[kind]
    if kind.startswith("Swin"):
        return f"it has windowed attention over a hierarchy of resolutions (class {kind})"
    kinds = {type(module).__name__.lower() for module in m.modules()}
    if any("attention" in other or "attn" in other for other in kinds):
        return f"it is another kind of network with attention (class {kind})"
    return f"it is a convolutional or other network without attention heads (class {kind})"


def _embedding_obstacles(m: Any) -> Iterator[str]:
    from timm.layers import PatchEmbed

    embed = m.patch_embed
    if type(embed) is not PatchEmbed:
        yield f"its patch embedding is not a single convolution (patch_embed is a {type(embed).__name__})"
        return
    if not isinstance(embed.norm, nn.Identity):
        yield "its patch embedding ends in a norm (patch_embed.norm)"
    if embed.img_size is None or embed.grid_size != tuple(
        size // patch for size, patch in zip(embed.img_size, embed.patch_size, strict=True)
    ):
        yield "its patch embedding pads images or accepts any image size (patch_embed)"
    if m.pos_embed is None:
        yield "it has no learned position embedding (pos_embed)"
    if not isinstance(m.norm_pre, nn.Identity | nn.LayerNorm):
        yield f"its first norm is a {type(m.norm_pre).__name__}, not a LayerNorm (norm_pre)"


def _block_obstacles(block: Any) -> Iterator[str]:
    from timm.models.vision_transformer import Block

    kind = type(block).__name__
    if type(block) is not Block:
        yield _OTHER_BLOCKS.get(kind, f"its blocks are of another kind, {kind}")
        return
    for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
        if not isinstance(norm, nn.LayerNorm):
            yield f"{name} is a {type(norm).__name__}, not a LayerNorm"
    yield from _attention_obstacles(block.attn)
    yield from _mlp_obstacles(block.mlp)


def _attention_obstacles(attn: Any) -> Iterator[str]:
    from timm.layers import Attention

    if type(attn) is not Attention:
        yield f"its attention is of another kind, {type(attn).__name__}"
        return
    if not (isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)):
        yield "its attention normalises queries and keys (qk-norm, attn.q_norm)"
    if not isinstance(attn.norm, nn.Identity):
        yield "its attention normalises the heads' output (scale_attn_norm, attn.norm)"
    if attn.gate is not None:
        yield "its attention is gated (attn.gate)"
    if attn.proj.bias is None:
        yield "its attention output has no bias (attn.proj)"


def _mlp_obstacles(mlp: Any) -> Iterator[str]:
    from timm.layers import Mlp

    if type(mlp) is not Mlp:
        yield f"its MLP is gated or of another kind, such as SwiGLU (mlp is a {type(mlp).__name__})"
        return
    if not isinstance(mlp.norm, nn.Identity):
        yield "its MLP has a norm inside (scale_mlp_norm, mlp.norm)"
    if _activation(mlp.act) is None:
        yield f"its MLP has the activation {type(mlp.act).__name__}, not GELU or QuickGELU (mlp.act)"


def _end_obstacles(m: Any) -> Iterator[str]:
    if m.attn_pool is not None:
        yield f"it pools by attention (global_pool {m.global_pool!r}, attn_pool)"
    elif m.global_pool not in ("token", "avg"):
        yield f"it pools by {m.global_pool or 'nothing'!r} (global_pool), not by 'token' or 'avg'"
    if m.global_pool == "avg" and m.pool_include_prefix:
        yield "it averages over the prefix tokens as well (pool_include_prefix)"
    ends = [norm for norm in (m.norm, m.fc_norm) if not isinstance(norm, nn.Identity)]
    if len(ends) != 1:
        yield f"it has {len(ends) or 'no'} final norms, not one (norm, fc_norm)"
    elif not isinstance(ends[0], nn.LayerNorm):
        yield f"its final norm is a {type(ends[0]).__name__}, not a LayerNorm"


def _activation(module: nn.Module) -> str | None:
    """The name in `vit.ACTIVATIONS` of timm's or torch's activation module; None for others."""
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    return {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu"}.get(type(module).__name__)


def _verify(model: ViT, timm_model: nn.Module) -> None:
    """Compare logits on random images, to catch differences that the checks above do not look for."""
    twin: Any = copy.deepcopy(timm_model).to("cpu", torch.float32).eval()
    shape = (2, model.arch.in_channels, *model.arch.image_size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = twin(images), model(images)
    if not bool(expected.isfinite().all()):
        raise UnsupportedModelError(_name(timm_model), "its output is not finite with these weights")
    difference = float((got - expected).abs().max())
    # "not <=" so that NaN fails too
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise UnsupportedModelError(
            _name(timm_model), f"its logits differ by {difference:.2g} after conversion"
        )


def _state(timm_model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(timm_model.state_dict().items())


def _name(timm_model: nn.Module) -> str:
    config = getattr(timm_model, "pretrained_cfg", None) or {}
    return str(config.get("architecture") or type(timm_model).__name__)
