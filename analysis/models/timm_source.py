"""Load models by timm's names: structure, weights from the hub or a file, and preprocessing."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.models.convert import architecture_of, from_timm
from analysis.models.local_weights import image_size_of, num_classes_of, pool_of, read_local
from analysis.models.preprocess import Preprocess
from analysis.models.weights import require_match, unpack
from analysis.vit import Architecture, ViT

HUB = "hf-hub:"
PROBE_SECONDS = 5.0
_LOCAL = "a file of its weights (dropped on the Start page, or with --weights FILE)"
_LAYER_SCALE = re.compile(r"(?<=\d)\.ls([12])\.gamma$")


@dataclass(frozen=True)
class FromTimm:
    """A model, its preprocessing, a description of where it is from, and what to tell: a sentence each."""

    model: ViT
    preprocess: Preprocess
    source: str
    notes: tuple[str, ...] = ()


def load_timm(
    name: str, weights: Path | None, image_size: tuple[int, int] | None, num_classes: int | None
) -> FromTimm:
    """The model of a timm or "hf-hub:" name, with weights from the hub or of a file.

    What is not given is read off the weights of a file: the number of classes, the image size, the pooling.

    Raises:
        ValueError: unknown name, or weights that are unavailable or do not fit.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    model = skeleton(name, image_size, num_classes)
    if weights is not None:
        return _with_local_weights(model, name, weights, image_size, num_classes)
    state = _adapt(_hub_weights(name, model.pretrained_cfg, num_classes), model, name)
    head = num_classes_of(state)
    if num_classes is None and head not in (0, model.num_classes):
        model = skeleton(name, image_size, head)  # fine-tuned on other classes
    return _filled(model, state, name, f"hub {model.pretrained_cfg['hf_hub_id']}")


def _with_local_weights(
    model: Any, name: str, weights: Path, image_size: tuple[int, int] | None, num_classes: int | None
) -> FromTimm:
    found = read_local(weights, model)
    state, notes = found.state, list(found.notes)
    _require_same_patches(state, model, weights)
    size, classes, pool = image_size, num_classes, pool_of(state) if model.global_pool != "avg" else None
    if size is None:
        size = image_size_of(state, model)
        notes += [f"its position embedding is for images of {size[0]} x {size[1]} pixels"] if size else []
        _require_known_grid(state, model, weights, size)
    if classes is None and "patch_embed.proj.weight" in state:
        classes = num_classes_of(state)
        if model.num_classes and not classes:
            notes.append(f"{weights.name} has no classifier: the model is loaded without one")
    if classes and not num_classes_of(state) and "patch_embed.proj.weight" in state:
        raise ValueError(
            f"{weights} has no classifier, so the number of classes cannot be {classes}: leave it out"
        )
    if (size, classes, pool) != (image_size, num_classes, None):
        model = skeleton(name, size, classes, pool)
    return _filled(model, _adapt(state, model, weights), weights, f"weights {weights}", tuple(notes))


def _filled(
    model: Any, state: dict[str, Tensor], file: object, source: str, notes: tuple[str, ...] = ()
) -> FromTimm:
    require_match(state, model.state_dict(), file)
    model.load_state_dict(state, assign=True)
    fill_buffers(model)
    vit = from_timm(model)
    return FromTimm(vit, preprocess_of(model.pretrained_cfg, vit.arch), source, notes)


def fill_buffers(model: Any, *, everywhere: bool = False) -> None:
    """Compute what no state dict holds, such as frequencies of rotary positions: what is on meta, or all."""
    for module in model.modules():
        own = dict(module.named_buffers(recurse=False))
        lacking = {name: buffer for name, buffer in own.items() if buffer.is_meta or everywhere}
        for name, buffer in lacking.items():
            if name in module._non_persistent_buffers_set:
                module.register_buffer(name, torch.empty_like(buffer, device="cpu"), persistent=False)
        if lacking and hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()


def skeleton(
    name: str, image_size: tuple[int, int] | None, num_classes: int | None, pool: str | None = None
) -> Any:
    """The timm model without weights (on the meta device), checked to be a plain Vision Transformer.

    What is None is as the name says; `pool` is timm's `global_pool`.

    Raises:
        ValueError: unknown name, or an invalid image size or number of classes.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    _require_known(name)
    model = _create(name)
    arch = architecture_of(model)  # before passing options that other networks do not accept
    options: dict[str, Any] = {}
    if image_size is not None:
        _require_size(image_size, arch.patch_size)
        options["img_size"] = image_size
    if num_classes is not None:
        if num_classes < 0:
            raise ValueError(f"num_classes must be 0 (no head) or more, got {num_classes}")
        options["num_classes"] = num_classes
    if pool is not None:
        options["global_pool"] = pool
    return _create(name, **options) if options else model


def is_timm(name: str) -> bool:
    """Whether timm has a model of that name; a tag after the dot is ignored."""
    import timm

    return bool(timm.is_model(name.partition(".")[0]))


def _create(name: str, **options: Any) -> Any:
    import timm

    if not name.startswith(HUB):
        with torch.device("meta"):
            return timm.create_model(name, **options)
    with hub_access(name, "the configuration of", "a timm name"), torch.device("meta"):
        return timm.create_model(name, **options)


def _require_known(name: str) -> None:
    import timm

    if name.startswith(HUB):
        require_hub_name(name)
        return
    if not is_timm(name):
        base = name.partition(".")[0]
        near = difflib.get_close_matches(base.lower(), timm.list_models(), n=3) or ["deit_tiny_patch16_224"]
        raise ValueError(f"there is no model named {name!r}; did you mean {' or '.join(near)}?")
    base, _, tag = name.partition(".")
    known = timm.list_models(f"{base}.*", pretrained=True)
    if tag and name not in known:
        raise ValueError(f"{base} has no weights tagged {tag!r}; available are {', '.join(known) or 'none'}")


def require_hub_name(name: str) -> None:
    """Check the form of a name that begins with `HUB`.

    Raises:
        ValueError: it names no owner, or has a character that no repository has.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name.removeprefix(HUB)):
        raise ValueError(f"a model on the hub is named {HUB}OWNER/NAME, got {name!r}")


def _require_size(image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    if len(image_size) != 2 or any(
        size < patch or size % patch for size, patch in zip(image_size, patch_size, strict=True)
    ):
        raise ValueError(
            f"image_size must be two numbers, rows first, that are multiples of the patch size "
            f"{patch_size[0]} x {patch_size[1]}, got {image_size}"
        )


def _hub_weights(name: str, config: dict[str, Any], num_classes: int | None) -> dict[str, Tensor]:
    from timm.models import load_state_dict_from_hf

    if not config.get("hf_hub_id"):
        raise ValueError(f"there are no weights for {name} on the hub; use {_LOCAL}")
    if num_classes not in (None, 0, config["num_classes"]):
        raise ValueError(
            f"the weights of {name} on the hub have {config['num_classes']} classes, not {num_classes}; "
            f"leave out the number of classes or use {_LOCAL} trained for it"
        )
    location = (config["hf_hub_id"], config.get("hf_hub_filename"))
    with hub_access(name, "the weights of", _LOCAL):
        loaded = load_state_dict_from_hf(*(part for part in location if part))
    return unpack(loaded, name)


@contextmanager
def hub_access(name: str, what: str, alternative: str) -> Iterator[None]:
    """Turn errors of the hub into one sentence; without network access use the local cache immediately.

    By default huggingface_hub retries for most of a minute before it gives up.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    reachable = not before and _hub_answers()
    constants.HF_HUB_OFFLINE = not reachable
    try:
        yield
    except Exception as error:  # from the HTTP library, huggingface_hub, or a configuration not timm's
        if not reachable:
            raise ValueError(
                f"the Hugging Face hub cannot be reached, and {what} {name} cannot be found in its "
                f"local cache; connect to the network or use {alternative}"
            ) from error
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, KeyError):
            reason = "its config.json does not describe a timm model"
        raise ValueError(
            f"the Hugging Face hub did not provide {what} {name} ({reason[:200]}); "
            f"check the name and your access, or use {alternative}"
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers() -> bool:
    """Whether the hub responds within `PROBE_SECONDS`, directly or through a proxy."""
    answers: list[object] = []

    def probe() -> None:
        from huggingface_hub import constants, get_session

        try:
            answers.append(get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS))
        except Exception:  # any error means that the hub cannot be reached
            return

    # in a thread, because the timeout does not apply to looking up the host name
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answers)


def _require_same_patches(state: dict[str, Tensor], model: Any, source: Path) -> None:
    """Refuse patches of another size, which timm would silently resample into a different model."""
    kernel, ours = state.get("patch_embed.proj.weight"), model.patch_embed.proj.weight
    if kernel is None or kernel.ndim != 4:
        return
    if kernel.shape[2:] != ours.shape[2:]:
        got, want = (f"{k.shape[2]} x {k.shape[3]}" for k in (kernel, ours))
        raise ValueError(f"{source} has weights for patches of {got} pixels, the model needs {want}")
    if kernel.shape[1] != ours.shape[1]:
        raise ValueError(
            f"{source} has weights for images of {kernel.shape[1]} channels; images are read as RGB, "
            f"so the weights must be for {ours.shape[1]}"
        )


def _require_known_grid(
    state: dict[str, Tensor], model: Any, source: Path, size: tuple[int, int] | None
) -> None:
    """Refuse a position embedding of another size whose grid of patches is not known."""
    tokens = state.get("pos_embed")
    if (
        size is None
        and tokens is not None
        and model.pos_embed is not None
        and tokens.ndim == 3
        and tokens.shape[1] != model.pos_embed.shape[1]
    ):
        raise ValueError(
            f"{source} has a position embedding for {tokens.shape[1]} tokens, the model has "
            f"{model.pos_embed.shape[1]}: it is of another architecture, or image_size must be set"
        )


def _adapt(state: dict[str, Tensor], model: Any, source: object) -> dict[str, Tensor]:
    """Convert original checkpoints (DeiT, DINOv2, CLIP, JAX) to timm's names and the image size."""
    from timm.models import beit, eva, vision_transformer, vision_transformer_relpos

    filters = {
        "Eva": eva.checkpoint_filter_fn,
        "Beit": beit.checkpoint_filter_fn,
        "VisionTransformerRelPos": vision_transformer_relpos.checkpoint_filter_fn,
    }
    other = filters.get(type(model).__name__)
    if "storage_tokens" in state:
        state = _without_zero_bias(state, model, source)
    try:
        if other is None:
            adapted = vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
        else:  # whose own name for LayerScale is that of the original code
            adapted = other({_LAYER_SCALE.sub(r".gamma_\1", name): v for name, v in state.items()}, model)
    except Exception as error:  # the filter raises all kinds of errors on other checkpoints
        raise ValueError(f"{source} does not hold weights for this Vision Transformer") from error
    unused = (
        ["attn_pool."] if getattr(model, "attn_pool", None) is None else []
    )  # SigLIP's, where it averages
    if model.num_classes == 0:
        unused += ["head.", "head_dist."]
    return {key: value for key, value in adapted.items() if not key.startswith(tuple(unused))}


def _without_zero_bias(state: dict[str, Tensor], model: Any, source: object) -> dict[str, Tensor]:
    """DINOv3's own files for timm's names without biases of queries, keys and values: there they are zero.

    timm leaves them out whatever they are, and prints a line for each.

    Raises:
        ValueError: one is not zero.
    """
    if any(name.endswith("attn.q_bias") for name in model.state_dict()):
        return state
    biases = [name for name in state if name.endswith("attn.qkv.bias")]
    if any(state[name].any() for name in biases):
        raise ValueError(
            f"{source} has biases of queries, keys and values, which this name of timm lacks: "
            "take the one that ends in _qkvb"
        )
    return {name: value for name, value in state.items() if name not in biases}


def preprocess_of(config: dict[str, Any], arch: Architecture) -> Preprocess:
    from timm.data import resolve_data_config

    data = resolve_data_config(pretrained_cfg=config)
    return Preprocess(
        image_size=arch.image_size,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation=data["interpolation"],
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
        labels=_labels(config, arch.num_classes),
    )


def _labels(config: dict[str, Any], num_classes: int) -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    own = config.get("label_names") or ()
    if own and len(own) == num_classes:
        return tuple(str(label) for label in own)
    if num_classes != 1000:
        return ()
    return tuple(synonyms.split(",")[0] for synonyms in ImageNetInfo().label_descriptions())
