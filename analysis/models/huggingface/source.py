"""Load models of Hugging Face transformers from their files: folders, Trainer checkpoints, hub repositories.

transformers itself is not needed: `config.json` decides what is read, weights go through this project's own
readers, and no code that comes with a model is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from analysis.formats import in_file
from analysis.models.convert import UnsupportedModelError
from analysis.models.huggingface.config import (
    CONFIG_FILE,
    Structure,
    are_made_up,
    is_transformers,
    structure_of,
)
from analysis.models.huggingface.families import PROJECTION
from analysis.models.huggingface.fields import read_object
from analysis.models.huggingface.images import PROCESSOR_FILES, Images, images_of
from analysis.models.preprocess import Preprocess
from analysis.models.timm_parts import dinov3_angles, in_planes
from analysis.models.weights import require_match, unpack
from analysis.models.weights_files import read_stored
from analysis.paths import is_file, is_folder
from analysis.vit import Architecture, ViT

WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
INDEX_FILES = tuple(f"{name}.index.json" for name in WEIGHTS_FILES)  # of weights in several files
MOST_SHARDS = 256

_PREFIX = re.compile(
    r"^(?:(?:vit|deit|dinov2|dinov2_with_registers|ijepa|clip|siglip|vision_model|beit|data2vec_vision|model)\.)+"
)
_LEFT_OUT = {
    "the pooler": re.compile(r"pooler\."),
    "the text tower": re.compile(r"text_model\.|text_projection\.|logit_(scale|bias)$"),
    "the decoder": re.compile(r"decoder\."),
    "the attention pooling": re.compile(r"head\.(probe|attention|layernorm|mlp)"),
    "": re.compile(
        r"embeddings\.(mask_token|position_ids)$|.*relative_position_index$"
    ),  # used in pretraining alone, or no weights
}
_HEADS = re.compile(r"(classifier|cls_classifier|distillation_classifier|visual_projection)\.")
_NAMES = (
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?(\.projection)?\.", "patch_embed.proj."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^pooler\.layernorm\.", "fc_norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"^(classifier|cls_classifier|visual_projection)\.", "head."),
    (r"^distillation_classifier\.", "head_dist."),
    (r"^(?:encoder\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"\.(attention\.attention|attention|self_attn)\.(query|q_proj)\.", ".attn.q."),
    (r"\.(attention\.attention|attention|self_attn)\.(key|k_proj)\.", ".attn.k."),
    (r"\.(attention\.attention|attention|self_attn)\.(value|v_proj)\.", ".attn.v."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"\.lambda_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|down_proj)\.", ".mlp.fc2."),
    (r"^(blocks\.\d+\.).*relative_position_bias_table$", r"\1attn.position_bias"),
    (r"^(encoder\.relative_position_bias|shared_position_bias)\.relative_position_bias_table$", "shared"),
)


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder holds the config of a transformers model, or the checkpoints of a training of one."""
    if is_file(folder / CONFIG_FILE):
        return is_transformers(read_object(folder / CONFIG_FILE))
    return is_folder(folder) and (
        any(is_file(folder / name) for name in (*INDEX_FILES, "adapter_config.json"))
        or _checkpoints(folder) != []
    )


def load_transformers(
    folder: Path, name: str, image_size: tuple[int, int] | None, num_classes: int | None
) -> tuple[ViT, Preprocess, str, tuple[str, ...]]:
    """Model, preprocessing, a description of the source, and what was left out or read otherwise.

    Raises:
        ValueError: a file is missing or damaged, or does not fit the others.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    structure, images = _described(folder, name, image_size, num_classes)
    labels = () if are_made_up(structure.labels) else structure.labels
    try:
        preprocess = images.preprocess(structure.arch.image_size, labels)
    except ValueError as error:
        raise in_file(_processor(folder) or folder, error) from error
    stored, left_out = _without(_weights(folder), structure)
    state = _adapted(stored, structure, folder)
    with torch.device("meta"):
        model = ViT(structure.arch)
    require_match(state, model.state_dict(), folder)
    model.load_state_dict(state, assign=True)
    notes = [f"{what} left out" for what in left_out] + [*structure.notes, *images.notes]
    if images.size not in (None, preprocess.image_size) and image_size is None:
        rows, columns = preprocess.image_size
        notes.append(f"its images are made ready for another size; here for {rows} x {columns}")
    source = f"transformers {structure.class_name} {name}"
    told = tuple(f"{name}: {note}" for note in notes)
    return model.eval(), preprocess, f"{source} ({'; '.join(notes)})" if notes else source, told


def transformers_architecture(
    folder: Path, name: str, image_size: tuple[int, int] | None, num_classes: int | None
) -> Architecture:
    """The architecture that a folder describes, without its weights.

    Raises:
        ValueError: as `load_transformers`.
    """
    return _described(folder, name, image_size, num_classes)[0].arch


def _described(
    folder: Path, name: str, image_size: tuple[int, int] | None, num_classes: int | None
) -> tuple[Structure, Images]:
    file = folder / CONFIG_FILE
    if not is_file(file):
        raise ValueError(_no_config(folder))
    config = read_object(file)
    processor = _processor(folder)
    said = None if processor is None else read_object(processor)
    try:
        images = images_of(said, str(config.get("model_type", "")))
    except ValueError as error:
        raise in_file(processor or file, error) from error
    try:
        structure = structure_of(
            config, name, taken=images.size, image_size=image_size, num_classes=num_classes
        )
    except UnsupportedModelError:
        raise
    except ValueError as error:
        raise in_file(file, error) from error
    return structure, images


def _processor(folder: Path) -> Path | None:
    return next((folder / one for one in PROCESSOR_FILES if is_file(folder / one)), None)


def _no_config(folder: Path) -> str:
    if is_file(folder / "adapter_config.json"):
        return f"{folder} holds an adapter only: merge it into its model (`merge_and_unload`), and save that"
    if checkpoints := _checkpoints(folder):
        return f"{folder} holds the checkpoints of a training: give one of them, such as {checkpoints[-1]}"
    return f"{folder} has no {CONFIG_FILE}: copy the whole folder that `save_pretrained` wrote"


def _checkpoints(folder: Path) -> list[Path]:
    """Folders that transformers' Trainer wrote in this one, by their number of steps."""
    found = (one for one in folder.glob("checkpoint-*") if is_file(one / CONFIG_FILE))
    return sorted(found, key=lambda one: (len(one.name), one.name))


# ---- weights


def _weights(folder: Path) -> dict[str, Tensor]:
    for name, index in zip(WEIGHTS_FILES, INDEX_FILES, strict=True):
        if is_file(folder / name):
            return _read(folder / name)
        if is_file(folder / index):
            return _read_shards(folder, folder / index)
    raise ValueError(
        f"{folder} has no weights: it must hold {' or '.join(WEIGHTS_FILES)}, "
        "or several files with their index"
    )


def _read(file: Path) -> dict[str, Tensor]:
    """Every tensor by its full name."""
    try:
        return unpack(read_stored(file), file, most_bytes=2 * file.stat().st_size)
    except MemoryError as error:
        raise ValueError(f"{file} needs more memory than this machine has free") from error


def _read_shards(folder: Path, index: Path) -> dict[str, Tensor]:
    names = shard_names(index)
    state: dict[str, Tensor] = {}
    for name in names:
        if not is_file(folder / name):
            raise ValueError(f"{folder} is incomplete: {index.name} names {name}, which is not there")
        part = _read(folder / name)
        if twice := state.keys() & part.keys():
            raise ValueError(f"{folder / name} holds {min(twice)!r:.100}, which another file holds as well")
        state |= part
    return state


def shard_names(index: Path) -> list[str]:
    """The files that an index names, each once.

    Raises:
        ValueError: they are too many, or lie in another folder.
    """
    found = read_object(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(f"{index}: `weight_map` must name the file of each tensor")
    names = sorted(set(found.values()))
    if len(names) > MOST_SHARDS:
        raise ValueError(f"{index} must name at most {MOST_SHARDS} files, got {len(names):,}")
    suffix = Path(index.name.removesuffix(".index.json")).suffix
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name) or not name.endswith(suffix):
            raise ValueError(f"{index} must name {suffix} files beside it, got {name!r:.100}")
    return names


def _without(state: Mapping[str, Tensor], structure: Structure) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors that are needed, their prefix removed, and what the others are."""
    kept: dict[str, Tensor] = {}
    left_out: dict[str, None] = {}
    for full, value in state.items():
        name = _PREFIX.sub("", full)
        what = next((what for what, names in _LEFT_OUT.items() if names.match(name)), None)
        if _is_used(name, structure.arch):
            what = None
        if name.startswith("post_layernorm.") and not structure.arch.final_norm:
            what = "the final norm, which its classifier does not read,"
        if what is None and not structure.arch.num_classes and _HEADS.match(name):
            what = "the classifier"
        if what is None:
            kept[name] = value
        elif what:
            left_out[what] = None
    return kept, list(left_out)


def _is_used(name: str, arch: Architecture) -> bool:
    """Whether a part that most models have for training alone is read: BEiT's norm, SigLIP's pooling."""
    norm = name.startswith("pooler.layernorm.") and not arch.norm_before_pool
    return norm or (name.startswith("head.") and arch.pool == "attention")


def _adapted(stored: Mapping[str, Tensor], structure: Structure, source: Path) -> dict[str, Tensor]:
    """State dict of a `ViT` from tensors by transformers' names."""
    arch = structure.arch
    state = _fused({_renamed(name, arch): value for name, value in stored.items()}, source)
    for index in range(arch.depth):
        _complete_block(state, f"blocks.{index}", arch, structure.rope_theta)
    state.pop("shared", None)
    for end in ("weight", "bias"):
        if f"attn_pool.qkv.{end}" in state:
            joined = state.pop(f"attn_pool.qkv.{end}")
            state[f"attn_pool.q.{end}"], state[f"attn_pool.kv.{end}"] = joined.tensor_split(
                [len(joined) // 3]
            )
    if not arch.registers:
        state.pop("reg_token", None)
    if structure.gives == PROJECTION:
        state.setdefault("head.bias", torch.zeros(arch.num_classes))
    if "cls_token" in state:
        state["cls_token"] = state["cls_token"].reshape(1, 1, -1)
    if "pos_embed" not in state and (arch.rope or arch.position_bias):
        state["pos_embed"] = torch.zeros(1, arch.grid[0] * arch.grid[1], arch.embed_dim)
    elif "pos_embed" in state:
        _fit_positions(state, structure, source)
    return state


def _renamed(name: str, arch: Architecture) -> str:
    if name == "embeddings.distillation_token":
        return "dist_token" if arch.distilled else "reg_token"
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    name = name.replace(".mlp.gate_proj.", ".mlp.gate.")
    return name.replace(".mlp.up_proj.", ".mlp.up." if arch.gated else ".mlp.fc1.")


def _fused(state: dict[str, Tensor], source: Path) -> dict[str, Tensor]:
    """With queries, keys and values of each block in one tensor."""
    for name in [name for name in state if ".attn.q." in name]:
        parts = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if name.endswith("bias"):  # the keys of BEiT and DINOv3 have none
            state.setdefault(parts[1], torch.zeros_like(state[name]))
        if not all(part in state for part in parts):
            continue  # told as unknown tensors
        tensors = [state.pop(part) for part in parts]
        if len({tensor.shape for tensor in tensors}) != 1 or not tensors[0].ndim:
            raise ValueError(f"{source}: queries, keys and values must have the same shape ({name:.100})")
        state[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat(tensors)
    return state


def _complete_block(state: dict[str, Tensor], block: str, arch: Architecture, theta: float) -> None:
    """Gates and values of an MLP in one layer, planes of rotary positions, and the bias by distance."""
    widths = arch.blocks[0]
    for end in ("weight", "bias"):
        gate, up = f"{block}.mlp.gate.{end}", f"{block}.mlp.up.{end}"
        if gate in state and up in state:
            state[f"{block}.mlp.fc1.{end}"] = torch.cat([state.pop(gate), state.pop(up)])
        rows = f"{block}.attn.qkv.{end}"
        if arch.rope and rows in state and len(state[rows]) == 3 * widths.heads * widths.qk:
            state[rows] = in_planes(state[rows], widths)
    if arch.rope:
        state[f"{block}.attn.rope"] = dinov3_angles(arch, theta)
    if arch.position_bias:
        own = [state.pop(name) for name in (f"{block}.attn.position_bias",) if name in state]
        tables = [*own, *([state["shared"]] if "shared" in state else [])]
        if tables:
            state[f"{block}.attn.position_bias"] = torch.stack(tables).sum(dim=0).T.contiguous()


def _fit_positions(state: dict[str, Tensor], structure: Structure, source: Path) -> None:
    """Bring the position embedding to the form and the grid of the model, as transformers resamples it."""
    arch, (rows, columns) = structure.arch, structure.grid
    positions = (
        state["pos_embed"].flatten(0, -2)[None] if state["pos_embed"].ndim > 1 else torch.empty(1, 0, 0)
    )
    prefix = len(arch.prefix_names) - (0 if arch.pos_embed_prefix else arch.registers)
    if positions.shape[1:] != (prefix + rows * columns, arch.embed_dim):
        raise ValueError(
            f"{source} has a position embedding for {positions.shape[1]:,} tokens, "
            f"{CONFIG_FILE} describes {prefix + rows * columns:,}"
        )
    first, patches = positions[:, :prefix], positions[:, prefix:]
    if arch.grid != (rows, columns):
        grid = patches.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)  # 1 E rows columns
        grid = F.interpolate(
            grid, arch.grid, mode="bicubic", align_corners=False, antialias=structure.family.antialias
        )
        patches = grid.flatten(2).transpose(1, 2)
    if arch.pos_embed_prefix or not prefix:
        state["pos_embed"] = torch.cat([first, patches], dim=1)
    else:  # registers have no positions, so the class token takes its own in advance
        state["pos_embed"] = patches.contiguous()
        if "cls_token" in state and state["cls_token"].shape == first.shape:
            state["cls_token"] = state["cls_token"] + first
