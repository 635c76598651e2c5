"""Names and forms of the tensors that other tools write, turned into those of timm.

Each layout is one function from a `Candidate`'s tensors to timm's; only names and shapes are read, so that it
works on the meta device too. What a plain Vision Transformer has no place for keeps its name, and is refused
later as unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analysis.models.candidates import BESIDE, Candidate

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
_LEFT_OUT = re.compile(
    r"(mask_token$|decoder_|dino_head\.|ibot_head\.|projector\.|predictor\.|logit_scale$|n_averaged$|pooler\.)"
)
_CLIP = (
    (r"conv1\.", "patch_embed.proj."),
    (r"class_embedding$", "cls_token"),
    (r"positional_embedding$", "pos_embed"),
    (r"ln_pre\.", "norm_pre."),
    (r"ln_post\.", "norm."),
    (r"transformer\.resblocks\.(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"(blocks\.\d+)\.attn\.in_proj_", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.attn\.out_proj\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.mlp\.c_fc\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.mlp\.c_proj\.", r"\1.mlp.fc2."),
    (r"(blocks\.\d+)\.ls_([12])\.", r"\1.ls\2."),
)
_TORCHVISION = (
    (r"conv_proj\.", "patch_embed.proj."),
    (r"class_token$", "cls_token"),
    (r"encoder\.pos_embedding$", "pos_embed"),
    (r"encoder\.ln\.", "norm."),
    (r"encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.ln_([12])\.", r"\1.norm\2."),
    (r"(blocks\.\d+)\.self_attention\.in_proj_", r"\1.attn.qkv."),
    (r"(blocks\.\d+)\.self_attention\.out_proj\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.mlp\.(0|linear_1)\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.mlp\.(3|linear_2)\.", r"\1.mlp.fc2."),
    (r"heads\.(head|pre_logits)\.", r"\1."),
)
# Both the names in saved files and those of the modules of version 5, of ViT, DeiT, MAE, DINOv2 and CLIP.
_HUGGING_FACE = (
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
    (r"embeddings\.class_embedding$", "cls_token"),
    (r"embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"embeddings\.distillation_token$", "dist_token"),
    (r"pre_layrnorm\.", "norm_pre."),
    (r"(layernorm|post_layernorm)\.", "norm."),
    (r"(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+)\.(?:layernorm_before|layer_norm1)\.", r"\1.norm1."),
    (r"(blocks\.\d+)\.(?:layernorm_after|layer_norm2)\.", r"\1.norm2."),
    (r"(blocks\.\d+)\.attention\.output\.dense\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.(?:attention|self_attn)\.(?:o_proj|out_proj)\.", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.attention\.attention\.(query|key|value)\.", r"\1.attn.\2."),
    (r"(blocks\.\d+)\.(?:attention|self_attn)\.q_proj\.", r"\1.attn.query."),
    (r"(blocks\.\d+)\.(?:attention|self_attn)\.k_proj\.", r"\1.attn.key."),
    (r"(blocks\.\d+)\.(?:attention|self_attn)\.v_proj\.", r"\1.attn.value."),
    (r"(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"(blocks\.\d+)\.layer_scale([12])\.lambda1$", r"\1.ls\2.gamma"),
)
_TIMM = (
    (r"blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2 in training keeps its blocks in chunks
    (r"(blocks\.\d+)\.gamma_([12])$", r"\1.ls\2.gamma"),
    (r"(blocks\.\d+)\.mlp\.w12\.", r"\1.mlp.fc1."),  # DINOv2's and EVA02's gated MLPs
    (r"(blocks\.\d+)\.mlp\.w3\.", r"\1.mlp.fc2."),
)
_JAX = (
    (r"embedding/kernel$", "patch_embed.proj.weight"),
    (r"embedding/bias$", "patch_embed.proj.bias"),
    (r"cls$", "cls_token"),
    (r"(?:Transformer/posembed_input/)?pos_embedding$", "pos_embed"),
    (r"(head|pre_logits)/", r"\1."),
    (r"Transformer/encoder_norm/", "norm."),
    (r"Transformer/encoderblock_(\d+)/", r"blocks.\1."),
    (r"(blocks\.\d+)\.LayerNorm_0/", r"\1.norm1."),
    (r"(blocks\.\d+)\.LayerNorm_[12]/", r"\1.norm2."),
    (r"(blocks\.\d+)\.MultiHeadDotProductAttention_\d/out/", r"\1.attn.proj."),
    (r"(blocks\.\d+)\.MultiHeadDotProductAttention_\d/(query|key|value)/", r"\1.attn.\2."),
    (r"(blocks\.\d+)\.MlpBlock_\d/Dense_0/", r"\1.mlp.fc1."),
    (r"(blocks\.\d+)\.MlpBlock_\d/Dense_1/", r"\1.mlp.fc2."),
    (r"(.*)\.(kernel|scale)$", r"\1.weight"),
)


@dataclass(frozen=True)
class Converted:
    """Tensors by timm's names, and what to tell about the conversion: part of a sentence each."""

    state: State
    notes: tuple[str, ...] = ()


def to_timm(candidate: Candidate) -> Converted:
    """The tensors of a candidate by timm's names and in timm's forms.

    Raises:
        ValueError: a tensor has a shape that its layout does not know.
    """
    try:
        state = _LAYOUTS[candidate.layout](candidate.state)
        state, dropped = _without_training_parts(_with_registers(state))
        state, notes = _with_classifier(state)
    except (IndexError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{candidate.where}: a tensor has a shape that {candidate.layout} does not have"
        ) from error
    if candidate.layout != "timm":
        notes = (f"the names of the weights are those of {candidate.layout}", *notes)
    return Converted(state, (*notes, *dropped))


def shapes_in(candidate: Candidate) -> Shapes:
    """Shapes of a candidate's tensors by timm's names, read without touching a value.

    Raises:
        ValueError: as `to_timm`.
        RuntimeError: a tensor without a shape.
    """
    empty = {name: torch.empty(value.shape, device="meta") for name, value in candidate.state.items()}
    state = to_timm(Candidate(empty, candidate.layout, candidate.where)).state
    return {name: tuple(value.shape) for name, value in state.items()}


def _renamed(state: Mapping[str, Tensor], table: tuple[tuple[str, str], ...]) -> State:
    patterns = [(re.compile(pattern), new) for pattern, new in table]
    renamed = {}
    for name, value in state.items():
        now = name
        for pattern, new in patterns:
            match = pattern.match(now)
            if match:
                now = match.expand(new) + now[match.end() :]
        renamed[now] = value
    return renamed


def _timm(state: Mapping[str, Tensor]) -> State:
    return _renamed(state, _TIMM)


def _clip(state: Mapping[str, Tensor]) -> State:
    renamed = _as_tokens(_renamed(state, _CLIP))
    if "proj" in renamed:
        renamed["head.weight"] = renamed.pop("proj").transpose(0, 1)
    return renamed


def _torchvision(state: Mapping[str, Tensor]) -> State:
    return _renamed(state, _TORCHVISION)


def _hugging_face(state: Mapping[str, Tensor]) -> State:
    renamed = _as_tokens(_renamed(state, _HUGGING_FACE))
    renamed.pop("embeddings.position_ids", None)
    return _fused(renamed)


def _jax(state: Mapping[str, Tensor]) -> State:
    renamed = _renamed(_unstacked(state), _JAX)
    return _fused({name: _from_flax(name, value) for name, value in renamed.items()})


def _from_flax(name: str, value: Tensor) -> Tensor:
    """Flax keeps weights as inputs by outputs, and the kernel of a convolution as rows, columns, in, out."""
    if re.search(r"\.attn\.(query|key|value)\.weight$", name):  # E x H x D
        return value.flatten(1).transpose(0, 1)
    if re.search(r"\.attn\.(query|key|value)\.bias$", name):  # H x D
        return value.flatten()
    if name.endswith(".attn.proj.weight"):  # H x D x E
        return value.flatten(0, 1).transpose(0, 1)
    if name == "patch_embed.proj.weight":
        return value.permute(3, 2, 0, 1)
    return value.transpose(0, 1) if name.endswith(".weight") and value.ndim == 2 else value


def _unstacked(state: Mapping[str, Tensor]) -> State:
    """Blocks that lie in one array along its first axis, as Big Vision scans them, taken apart."""
    stacked = "Transformer/encoderblock/"
    out: State = {}
    for name, value in state.items():
        if name.startswith(stacked):
            out |= {f"{stacked[:-1]}_{i}/{name[len(stacked) :]}": block for i, block in enumerate(value)}
        else:
            out[name] = value
    return out


_LAYOUTS: dict[str, Callable[[Mapping[str, Tensor]], State]] = {
    "timm": _timm,
    "CLIP": _clip,
    "torchvision": _torchvision,
    "Hugging Face": _hugging_face,
    "Hugging Face CLIP": _hugging_face,
    "JAX": _jax,
}


def _as_tokens(state: State) -> State:
    """CLIP's class token of E numbers and position embedding of N x E, with the axes that timm has."""
    for name, axes in (("cls_token", 3), ("pos_embed", 3)):
        if name in state and state[name].ndim < axes:
            state[name] = state[name].reshape(1, -1, state[name].shape[-1])
    return state


def _fused(state: State) -> State:
    """Queries, keys and values in one layer, as timm has them."""
    out = dict(state)
    for name in state:
        match = re.fullmatch(r"(blocks\.\d+\.attn)\.query\.(weight|bias)", name)
        if match:
            parts = [f"{match[1]}.{part}.{match[2]}" for part in ("query", "key", "value")]
            if all(part in state for part in parts):
                out[f"{match[1]}.qkv.{match[2]}"] = torch.cat([out.pop(part) for part in parts])
    return out


def _with_registers(state: State) -> State:
    """DINOv2 adds a position to its class token alone; timm's models with registers to none of the prefix."""
    if "register_tokens" not in state:
        return state
    out = dict(state)
    positions = out.pop("pos_embed")
    out["reg_token"] = out.pop("register_tokens")
    out["cls_token"] = out["cls_token"] + positions[:, :1]
    out["pos_embed"] = positions[:, 1:]
    return out


def _without_training_parts(state: State) -> tuple[State, tuple[str, ...]]:
    """Drop decoders and projections that only the training needed."""
    dropped = [name for name in state if _LEFT_OUT.match(name)]
    kept = {name: value for name, value in state.items() if name not in set(dropped)}
    real = sorted(
        {name.split(".")[0] for name in dropped} - {"mask_token", "logit_scale", "n_averaged", "pooler"}
    )
    told = f"parts that only its training needed are left out: {', '.join(real)[:120]}"
    return kept, (told,) if real else ()


def _with_classifier(state: State) -> tuple[State, tuple[str, ...]]:
    """One linear layer as the classifier, from beside the weights where there is none among them.

    A classifier of several layers, or of other features than the pooled ones, is left out.
    """
    heads = [name for name in state if name.startswith(("head.", "pre_logits.", BESIDE))]
    kept = {name: value for name, value in state.items() if name not in set(heads)}
    width = state["patch_embed.proj.weight"].shape[0]
    if any(name.startswith("pre_logits.") for name in heads):
        return kept, ("its classifier reads a hidden layer, which this model does not have: it is left out",)
    if f"{BESIDE}distillation_classifier.weight" in state and "dist_token" in state:
        for ours, theirs in (("head", "cls_classifier"), ("head_dist", "distillation_classifier")):
            kept |= {f"{ours}.{end}": state[f"{BESIDE}{theirs}.{end}"] for end in ("weight", "bias")}
        return kept, ()
    ends = [name.removesuffix(".weight") for name in heads if name.endswith(".weight")]
    linear = [name for name in ends if tuple(state[f"{name}.weight"].shape[1:]) == (width,)]
    chosen = "head" if "head" in linear else next((name for name in linear if name.startswith(BESIDE)), None)
    if chosen is None:
        told = "its classifier is not one linear layer on the pooled features: it is left out"
        return kept, (told,) if heads else ()
    kept["head.weight"] = state[f"{chosen}.weight"]
    kept["head.bias"] = state.get(f"{chosen}.bias", torch.zeros_like(kept["head.weight"][:, 0]))
    beside = chosen.removeprefix(BESIDE)
    return kept, (f"its classifier is the layer {beside}, beside the backbone",) if chosen != beside else ()
