"""What a timm Vision Transformer is made of: its `Architecture`, and its weights by the names of `vit.py`.

Both are read off the modules, of timm's VisionTransformer, Eva, Beit and VisionTransformerRelPos, which may
be on the meta device. What timm has in several forms is brought to one: the gates' rows of `fc1` come first,
the two channels of a plane of rotary positions lie side by side, and biases that are left out are zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analysis.models.timm_parts.planes import in_planes, in_planes_of_head
from analysis.vit import Architecture, BlockWidths

State = dict[str, Tensor]
_POOLS = {"map": "attention"}
_LEFT_OUT = re.compile(r"rope\.|.*rel_pos|.*relative_position")  # they become tables of their own


def read_architecture(m: Any) -> Architecture:
    """The `Architecture` of a model in which nothing stands in the way."""
    attn, mlp = m.blocks[0].attn, m.blocks[0].mlp
    pool = getattr(m, "attn_pool", None)
    prefix = m.num_prefix_tokens
    reads_prefix = (pool is not None and _is(m, "Eva")) or bool(getattr(m, "pool_include_prefix", False))
    return Architecture(
        image_size=tuple(m.patch_embed.img_size),
        patch_size=tuple(m.patch_embed.patch_size),
        embed_dim=m.embed_dim,
        blocks=tuple(
            BlockWidths(b.attn.num_heads, head_dim(b.attn), head_dim(b.attn), b.mlp.fc2.in_features)
            for b in m.blocks
        ),
        num_classes=m.num_classes,
        scale=attn.scale,
        in_channels=m.patch_embed.proj.in_channels,
        class_token=m.cls_token is not None,
        distilled=getattr(m, "dist_token", None) is not None,
        registers=_count(m, "reg_token"),
        pos_embed_prefix=_pos_embed(m) is not None and not getattr(m, "no_embed_class", False),
        layer_scale=layer_scale_of(m.blocks[0]),
        qkv_bias=any(bias is not None for bias in _qkv_biases(attn)),
        pre_norm=not isinstance(getattr(m, "norm_pre", nn.Identity()), nn.Identity),
        pool=_POOLS.get(m.global_pool, m.global_pool),
        norm_before_pool=not is_norm(m.fc_norm),
        norm=norm_kind(m.blocks[0].norm1) or "",
        norm_eps=m.blocks[0].norm1.eps,
        activation=activation_of(mlp.act) or "",
        final_norm=is_norm(m.norm) or is_norm(m.fc_norm),
        pool_prefix=reads_prefix and prefix > 0 and m.global_pool != "token",
        pool_heads=0 if pool is None else pool.num_heads,
        pool_width=0 if pool is None else pool.out_features,
        pool_mlp=0 if pool is None else pool.mlp.fc1.out_features,
        patch_norm=is_norm(m.patch_embed.norm),
        attn_norm=is_norm(getattr(attn, "norm", None)),
        mlp_norm=is_norm(mlp.norm),
        qk_norm=is_norm(getattr(attn, "q_norm", None)),
        gated=not isinstance(mlp, _mlp()),
        rope=getattr(m, "rope", None) is not None,
        position_bias=next(_biases(m), None) is not None,
    )


def state_of(m: Any, arch: Architecture) -> State:
    """The weights of a model by the names of `vit.py`."""
    state = {name: value for name, value in m.state_dict().items() if not _LEFT_OUT.match(name)}
    state = {re.sub(r"\.gamma_([12])$", r".ls\1.gamma", name): value for name, value in state.items()}
    like = state["patch_embed.proj.weight"]
    if _pos_embed(m) is None:
        state["pos_embed"] = like.new_zeros(1, arch.grid[0] * arch.grid[1], arch.embed_dim)
    angles, biases = _angles(m, arch), list(_biases(m))
    for index, block in enumerate(m.blocks):
        _join_qkv(state, f"blocks.{index}.attn", block.attn)
        _join_gates(state, f"blocks.{index}.mlp", block.mlp)
        if angles is not None:
            _take_planes(state, f"blocks.{index}.attn", arch.blocks[index], half=block.attn.rotate_half)
            own = angles[index] if angles.ndim == 4 else angles.expand(block.attn.num_heads, -1, -1)
            state[f"blocks.{index}.attn.rope"] = own.flatten(0, 1).to(like)
        if biases:
            state[f"blocks.{index}.attn.position_bias"] = _table(biases[index], arch)
    for name in [
        name for name in state if re.fullmatch(r"blocks\.\d+\.(attn\.proj|mlp\.fc[12])\.weight", name)
    ]:
        bias = name.removesuffix("weight") + "bias"
        state.setdefault(bias, state[name].new_zeros(len(state[name])))
    for name in [name for name in state if name.endswith(".ls1.gamma")]:  # Sapiens2 scales attention alone
        state.setdefault(name.replace("ls1", "ls2"), torch.ones_like(state[name]))
    if not arch.pre_norm:
        state.setdefault("patch_embed.proj.bias", like.new_zeros(len(like)))
    return state


def head_dim(attn: Any) -> int:
    """Channels of a head."""
    return int(attn.proj.in_features // attn.num_heads)


def is_norm(module: Any) -> bool:
    """Whether there is a norm, and not nothing in its place."""
    return module is not None and not isinstance(module, nn.Identity)


def norm_kind(module: nn.Module | None) -> str | None:
    """The name in `NORMS` of timm's or torch's norm; None for others."""
    from timm.layers import RmsNorm

    if isinstance(module, RmsNorm | nn.RMSNorm):
        return "rms"
    return "layer" if isinstance(module, nn.LayerNorm) else None


def activation_of(module: nn.Module) -> str | None:
    """The name in `ACTIVATIONS` of timm's or torch's activation; None for others."""
    if isinstance(module, nn.GELU):
        return "gelu_tanh" if module.approximate == "tanh" else "gelu"
    names = {
        "GELU": "gelu",
        "GELUTanh": "gelu_tanh",
        "QuickGELU": "quick_gelu",
        "SiLU": "silu",
        "Swish": "silu",
    }
    return names.get(type(module).__name__)


def layer_scale_of(block: Any) -> bool:
    """Whether a block scales what its halves add."""
    return getattr(block, "gamma_1", None) is not None or is_norm(getattr(block, "ls1", None))


def _mlp() -> type:
    from timm.layers import Mlp

    return Mlp


def _is(m: Any, kind: str) -> bool:
    return any(one.__name__ == kind for one in type(m).__mro__)


def _count(m: Any, name: str) -> int:
    token = getattr(m, name, None)
    return 0 if token is None else int(token.shape[1])


def _pos_embed(m: Any) -> Tensor | None:
    return getattr(m, "pos_embed", None)


# ---- attention


def _qkv_biases(attn: Any) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Biases of queries, keys and values where they lie apart; the first holds all where they do not."""
    if getattr(attn, "qkv", None) is None:
        return attn.q_proj.bias, attn.k_proj.bias, attn.v_proj.bias
    if attn.qkv.bias is not None or not hasattr(attn, "q_bias"):
        return attn.qkv.bias, None, None
    return attn.q_bias, None, attn.v_bias


def _join_qkv(state: State, attn: str, module: Any) -> None:
    """Queries, keys and values in one layer. Eva's and BEiT's keys have no bias: it is zero."""
    first = state.get(f"{attn}.q_proj.weight", state.get(f"{attn}.q_bias"))
    if first is None:
        return
    if f"{attn}.q_proj.weight" in state:
        parts = [state.pop(f"{attn}.{part}_proj.weight") for part in "qkv"]
        state[f"{attn}.qkv.weight"] = torch.cat([_for_each_head(part, module) for part in parts])
    rows = module.num_heads * head_dim(module)
    found = [(f"{attn}.{part}_proj.bias", f"{attn}.{part}_bias") for part in "qkv"]
    biases = [next((state.pop(name) for name in names if name in state), None) for names in found]
    if any(bias is not None for bias in biases):
        zeros = first.new_zeros(rows)
        given = [zeros if bias is None else _for_each_head(bias, module) for bias in biases]
        state[f"{attn}.qkv.bias"] = torch.cat(given)


def _for_each_head(rows: Tensor, module: Any) -> Tensor:
    """Rows of queries, keys or values for every head, where several share keys and values (Sapiens2)."""
    shared = module.num_heads * head_dim(module) // len(rows)
    return rows.unflatten(0, (-1, head_dim(module))).repeat_interleave(shared, dim=0).flatten(0, 1)


def _join_gates(state: State, mlp: str, module: Any) -> None:
    """The gates' rows of `fc1` first, then the others, in one layer."""
    for end in ("weight", "bias"):
        if f"{mlp}.fc1_g.{end}" in state:
            parts = [state.pop(f"{mlp}.fc1_{part}.{end}") for part in "gx"]
            state[f"{mlp}.fc1.{end}"] = torch.cat(parts)
        elif getattr(module, "gate_last", False) and f"{mlp}.fc1.{end}" in state:
            state[f"{mlp}.fc1.{end}"] = torch.cat(state[f"{mlp}.fc1.{end}"].chunk(2)[::-1])


# ---- places


def _angles(m: Any, arch: Architecture) -> Tensor | None:
    """Of each plane the angle of the first patch, and what it grows by with a row and with a column.

    (depth H) P 3, without the first axes where all blocks and heads are alike. They are read off timm's own
    table of sines and cosines, so that any angles that are linear in the place of a patch will do; only
    their remainder by a full turn matters. That they are linear is checked with the logits.
    """
    if getattr(m, "rope", None) is None:
        return None
    table = m.rope.get_embed(shape=list(arch.grid)).double()
    sin, cos = table.chunk(2, dim=-1)
    half = m.blocks[0].attn.rotate_half
    planes = slice(None, sin.shape[-1] // 2) if half else slice(None, None, 2)
    sin, cos = (one[..., planes].unflatten(-2, arch.grid) for one in (sin, cos))  # .. Y X P
    turns = torch.complex(cos, sin)
    first = turns[..., 0, 0, :]
    down = _slope(turns[..., :, 0, :] * first[..., None, :].conj())
    across = _slope(turns[..., 0, :, :] * first[..., None, :].conj())
    return torch.stack([first.angle(), down, across], dim=-1)


def _slope(turns: Tensor) -> Tensor:
    """The angle per step of turns along the axis before the last, whose first is none."""
    steps = turns.shape[-2] - 1
    if not steps:
        return torch.zeros_like(turns[..., 0, :].real)
    one, all_ = turns[..., 1, :].angle(), turns[..., -1, :].angle()
    return (all_ + 2 * torch.pi * ((one * steps - all_) / (2 * torch.pi)).round()) / steps


def _take_planes(state: State, attn: str, widths: BlockWidths, *, half: bool) -> None:
    """Queries' and keys' channels in the order of `vit.py`: the two of a plane side by side."""
    if not half:
        return
    for name in (f"{attn}.qkv.weight", f"{attn}.qkv.bias"):
        if name in state:
            state[name] = in_planes(state[name], widths)
    for norm in ("q_norm", "k_norm"):
        for name in (f"{attn}.{norm}.weight", f"{attn}.{norm}.bias"):
            if name in state:
                state[name] = in_planes_of_head(state[name])


def _biases(m: Any) -> Iterator[Float[Tensor, "H N N"]]:
    """What each block adds to its scores by the places of two tokens; none without such a bias."""
    shared = getattr(m, "shared_rel_pos", None)
    beits = getattr(m, "rel_pos_bias", None)
    for block in m.blocks:
        own = getattr(block.attn, "rel_pos", None)
        parts = [one.get_bias()[0] for one in (shared, own) if one is not None]
        parts += [] if beits is None else [beits()]
        if getattr(block.attn, "relative_position_bias_table", None) is not None:
            parts.append(block.attn._get_rel_pos_bias()[0])
        if parts:
            yield torch.stack(parts).sum(dim=0)


def _table(bias: Float[Tensor, "H N N"], arch: Architecture) -> Float[Tensor, "H T"]:
    """The same as a table by the offset of two patches, then the three numbers for prefix tokens."""
    (rows, columns), prefix = arch.grid, len(arch.prefix_names)
    down = torch.arange(1 - rows, rows)[:, None].expand(-1, 2 * columns - 1).flatten()
    across = torch.arange(1 - columns, columns).repeat(2 * rows - 1)
    query = down.clamp_min(0) * columns + across.clamp_min(0) + prefix
    key = (-down).clamp_min(0) * columns + (-across).clamp_min(0) + prefix
    table = bias.detach()[:, query.to(bias.device), key.to(bias.device)]
    last = table.new_zeros(len(table), 3)
    if prefix:
        last = torch.stack([bias[:, 0, prefix], bias[:, prefix, 0], bias[:, 0, 0]], dim=-1).detach()
    return torch.cat([table, last], dim=-1)
