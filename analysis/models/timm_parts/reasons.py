"""Reasons why a timm model cannot be a `ViT`: the first of them is what a refusal says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from analysis.models.timm_parts.structure import activation_of, is_norm, norm_kind

_OTHER_CLASSES = {
    "VisionTransformerSAM": "it has windowed attention with a relative position bias",
    "NaFlexVit": "it takes sequences of patches of varying length (NaFlex)",
}
_OTHER_BLOCKS = {
    "ParallelScalingBlock": "attention and MLP run in parallel",
    "DiffParallelScalingBlock": "attention and MLP run in parallel, with differential attention",
    "ParallelThingsBlock": "several attentions and MLPs run in parallel",
    "ResPostBlock": "its norms come after attention and MLP",
    "ResPostRelPosBlock": "its norms come after attention and MLP",
    "EvaBlockPostNorm": "its norms come after attention and MLP",
}
_ACTIVATIONS = "GELU, QuickGELU or SiLU"


def obstacles(m: Any) -> Iterator[str]:
    """Reasons why `vit.py` cannot express the model; none if it can."""
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_relpos import VisionTransformerRelPos

    if not isinstance(m, VisionTransformer | Eva | Beit | VisionTransformerRelPos):
        yield _foreign(m)
        return
    yield from _embedding_obstacles(m)
    for index, block in enumerate(m.blocks):
        yield from (f"{reason} (blocks.{index})" for reason in _block_obstacles(block))
    yield from _end_obstacles(m)
    norms = [module for module in m.modules() if norm_kind(module)]
    if len({(norm_kind(norm), norm.eps) for norm in norms}) != 1:
        yield "its norms differ in kind or epsilon"
    if len({(b.attn.scale, activation_of(b.mlp.act), type(b.mlp)) for b in m.blocks}) != 1:
        yield "its blocks differ in attention scale, activation or kind of MLP"


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
    if embed.img_size is None or embed.grid_size != tuple(
        size // patch for size, patch in zip(embed.img_size, embed.patch_size, strict=True)
    ):
        yield "its patch embedding pads images or accepts any image size (patch_embed)"
    for name, norm in (("patch_embed.norm", embed.norm), ("norm_pre", getattr(m, "norm_pre", None))):
        if is_norm(norm) and norm_kind(norm) is None:
            yield f"{name} is a {type(norm).__name__}, not a LayerNorm or RMSNorm"


def _block_obstacles(block: Any) -> Iterator[str]:
    from timm.models import beit, eva, vision_transformer, vision_transformer_relpos

    kinds = (vision_transformer.Block, eva.EvaBlock, beit.Block, vision_transformer_relpos.RelPosBlock)
    if type(block) not in kinds:
        kind = type(block).__name__
        yield _OTHER_BLOCKS.get(kind, f"its blocks are of another kind, {kind}")
        return
    for name, norm in (("norm1", block.norm1), ("norm2", block.norm2)):
        if norm_kind(norm) is None:
            yield f"{name} is a {type(norm).__name__}, not a LayerNorm or RMSNorm"
    yield from _attention_obstacles(block.attn)
    yield from _mlp_obstacles(block.mlp)


def _attention_obstacles(attn: Any) -> Iterator[str]:
    from timm.layers import Attention, AttentionRope
    from timm.models import beit, eva, vision_transformer_relpos

    kinds = (
        *(Attention, AttentionRope, eva.EvaAttention, beit.Attention),
        vision_transformer_relpos.RelPosAttention,
    )
    if type(attn) not in kinds:
        yield f"its attention is of another kind, {type(attn).__name__}"
        return
    for name in ("q_norm", "k_norm", "norm"):
        norm = getattr(attn, name, None)
        if is_norm(norm) and norm_kind(norm) is None:
            yield f"attn.{name} is a {type(norm).__name__}, not a LayerNorm or RMSNorm"
    if getattr(attn, "gate", None) is not None:
        yield "its attention is gated (attn.gate)"


def _mlp_obstacles(mlp: Any) -> Iterator[str]:
    from timm.layers import GluMlp, Mlp, SwiGLU

    if type(mlp) not in (Mlp, GluMlp, SwiGLU):
        yield f"its MLP is of another kind (mlp is a {type(mlp).__name__})"
        return
    if is_norm(mlp.norm) and norm_kind(mlp.norm) is None:
        yield f"mlp.norm is a {type(mlp.norm).__name__}, not a LayerNorm or RMSNorm"
    if activation_of(mlp.act) is None:
        yield f"its MLP has the activation {type(mlp.act).__name__}, not {_ACTIVATIONS} (mlp.act)"


def _end_obstacles(m: Any) -> Iterator[str]:
    pool = getattr(m, "attn_pool", None)
    if pool is not None and (m.global_pool != "map" or not _is_plain_pool(pool)):
        yield f"it pools by an attention of another kind (global_pool {m.global_pool!r}, attn_pool)"
    elif pool is not None and activation_of(pool.mlp.act) != activation_of(m.blocks[0].mlp.act):
        yield "its attention pooling has another activation than its blocks (attn_pool.mlp.act)"
    elif pool is None and m.global_pool not in ("token", "avg"):
        yield f"it pools by {m.global_pool or 'nothing'!r} (global_pool), not by 'token', 'avg' or 'map'"
    ends = [norm for norm in (m.norm, m.fc_norm) if is_norm(norm)]
    if len(ends) > 1:
        yield "it has two final norms, not one (norm, fc_norm)"
    elif ends and norm_kind(ends[0]) is None:
        yield f"its final norm is a {type(ends[0]).__name__}, not a LayerNorm or RMSNorm"


def _is_plain_pool(pool: Any) -> bool:
    """Whether an attention pooling is that of SigLIP: one query, a projection and an MLP."""
    from timm.layers import AttentionPoolLatent

    return (
        type(pool) is AttentionPoolLatent
        and isinstance(pool.q, nn.Linear)
        and pool.mlp is not None
        and pool.pos_embed is None
        and (pool.latent_len, pool.latent_dim) == (1, pool.out_features)
        and not is_norm(pool.q_norm)
        and norm_kind(pool.norm) is not None
    )
