"""Spectral pruning: the best subspace instead of the best neurons, and a refit of what is left.

Needs calibration images and no training. Block by block, on the activations of the network as
already pruned: query-key and value channels by truncated singular value decompositions, MLP
neurons by `choose_neurons`, `proj` and `fc2` refitted so that the residual stream comes back to the
dense model's, and `qkv` and `fc1`, where it is still near, so that they read from it what they read
in the dense model. Errors of attention scores and of neurons count by how much the prediction minds
them (`fisher`); those of value channels count alike in all directions of the stream, which was
measured to be better. Everything here is [ours] but the tools named in the docstrings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from analysis.measure import Batches
from analysis.vit import Architecture, Block, ViT
from pruning.activations import Activations
from pruning.budget import Narrow
from pruning.cut import QK_WHOLE
from pruning.options import ImageOptions, option_field
from pruning.projection.block_parts import Walk, halves, working_copy
from pruning.projection.fisher import error_roots
from pruning.projection.project_block import Step, project_half, restore_reader
from pruning.projection.rotation import rotate, rotated_architecture
from pruning.projection.streams import Still, Streams, token_weights

# Single blocks are narrowed to see what they lose on other images: with less care than a model to keep.
_NARROW_IMAGES = 48  # that they are fitted on
_NARROW_ATTENTION = 32  # of these, for the few inputs of `proj`
_NARROW_ROOTS = 32  # of these, for `error_roots`
_NARROW_SCORES = 8  # of these, for attention scores
_NARROW_SWEEPS = 1


@dataclass(frozen=True)
class SpectralOptions(ImageOptions):
    """Settings of spectral pruning."""

    images: int = option_field(256, 1, 4096, "Calibration images the activations are measured on, at most.")
    pull: int = option_field(
        100, 0, 100, "Percent of the distance to the dense model's activations that a refit makes up for."
    )
    steered: int = option_field(
        100, 0, 100, "Percent of the calibration images that are first changed towards another class."
    )
    focus: int = option_field(
        10, 0, 90, "Percent of the weight that goes to the tokens the classifier reads."
    )


def spectral(
    model: ViT,
    batches: Batches,
    target: Architecture,
    options: SpectralOptions | None = None,
    progress: Callable[[float], None] = lambda _: None,
    start: ViT | None = None,
    place: Path | None = None,
) -> ViT:
    """A new model of `target`'s widths that comes close to `model`, which is not changed.

    Heads and halves of blocks stay whole unless `start` is `model` cut to those that stay. For a narrower
    embedding the model is first turned and narrowed by `rotate`, which leaves norms that do not centre;
    then `batches` are read twice. Activations lie on disk, in `place` or a temporary folder, and one batch of
    them in memory.
    `progress` is told the share done. LayerScale is folded into the layer before.

    Raises:
        ValueError: a target that is not `model` (or `start`) with narrower query-key, value or MLP
            widths, no images, or activations that are not finite.
        OSError: no room for the activations.
    """
    options = options or SpectralOptions()
    if target.embed_dim < model.arch.embed_dim:
        turned = rotate(
            start or model,
            batches,
            target.embed_dim,
            images=options.images,
            steered=options.steered / 100,
            focus=options.focus / 100,
            progress=lambda share: progress(share / 2),
            place=place,
        )
        target = replace(turned.arch, blocks=target.blocks)
        later = lambda share: progress((1 + share) / 2)
        return spectral(turned, batches, target, options, later, place=place)
    _require_target((start or model).arch, target)
    dense, whole, depth = working_copy(model), working_copy(start or model), model.arch.depth
    small = ViT(target).to(next(dense.parameters())).eval()
    with torch.no_grad(), Activations(dense.pos_embed.device, place) as stored:
        _copy_what_stays(whole, small)
        streams = Streams(stored, dense, batches, options.images, options.steered / 100)
        roots = error_roots(dense, streams)
        for index in range(depth):
            weights = _weights(model, index, options, streams)
            full, left, narrow = (halves(part.blocks[index]) for part in (dense, whole, small))
            for half, (wide, kept, thin) in enumerate(zip(full, left, narrow, strict=True)):
                if wide is not None and (kept is None or thin is None):
                    streams.advance(wide.through, "dense")  # the pruned model does without
                elif wide is not None and kept is not None and thin is not None:
                    root, pull = roots[2 * index + half], options.pull / 100
                    step = Step(model.arch, wide, kept, thin, streams, weights, root, pull)
                    restore_reader(step)
                    project_half(step)
                    streams.advance(step.narrow.through)
                progress((index + (half + 1) / 2) / depth)
    return small.to(next(model.parameters())).train(model.training)


def spectral_target(dense: Architecture, widths: Architecture) -> Architecture:
    """The architecture that `spectral` makes for these widths: a narrower embedding changes the norms.

    Raises:
        ValueError: an embedding that cannot be narrowed, or a structure that has to stay whole.
    """
    require_projectable(dense, widths)
    if widths.embed_dim == dense.embed_dim:
        return widths
    return replace(rotated_architecture(dense, widths.embed_dim), blocks=widths.blocks)


def whole_in_projections(dense: Architecture) -> tuple[str, ...]:
    """The structures of a model that projections have to leave whole."""
    return ("qk",) * dense.qk_norm + ("v",) * dense.attn_norm


def require_projectable(dense: Architecture, target: Architecture) -> None:
    """Check that a target leaves whole what has to stay so.

    Raises:
        ValueError: it does not.
    """
    pairs = list(zip(dense.blocks, target.blocks, strict=False))
    if dense.qk_norm and any(after.qk < before.qk for before, after in pairs if after.heads):
        raise ValueError(QK_WHOLE)
    if dense.attn_norm and any(after.v < before.v for before, after in pairs if after.heads):
        raise ValueError(
            "spectral pruning leaves the values of a model with a norm in front of `proj` whole, because it "
            "belongs to single channels: leave their ratio (v) at 0, or take a method that chooses channels"
        )


def narrow_spectral(
    model: ViT, batches: Batches, options: SpectralOptions, place: Path | None = None
) -> Narrow:
    """Narrow single blocks of a dense model by projection; asked for blocks in rising order.

    Activations lie on disk, in `place` or a temporary folder.

    Raises:
        ValueError: no images; from the function returned, a block before the last one asked for.
    """
    return _Narrowing(model, batches, options, place)


class _Narrowing:
    """A `Narrow` with the dense model's activations before the block it has come to."""

    def __init__(self, model: ViT, batches: Batches, options: SpectralOptions, place: Path | None) -> None:
        self._model, self._options = model, options
        self._dense = working_copy(model)
        stored = Activations(self._dense.pos_embed.device, place)  # removed with this object
        with torch.no_grad():
            limit = min(options.images, _NARROW_IMAGES)
            self._streams = Streams(stored, self._dense, batches, limit, options.steered / 100)
            self._roots = error_roots(self._dense, self._streams, _NARROW_ROOTS)
        self._walk = Walk(self._dense, partial(self._streams.advance, name="dense"))

    @torch.no_grad()
    def __call__(self, index: int, structure: str, width: int) -> Block:
        block, widths = self._walk.come_to(index), self._model.arch.blocks[index]
        alone = replace(self._model.arch, blocks=(replace(widths, **{structure: width}),))
        narrow = ViT(alone).to(next(self._dense.parameters())).eval().blocks[0]
        _copy_what_stays(block, narrow)
        half = int(structure == "mlp")
        attention, whole = halves(block)[0], halves(block)[half]
        small = halves(narrow)[half]
        if whole is None or small is None:
            raise ValueError(f"block {index} has no {structure} to narrow")
        through = attention.through if half and attention else lambda x: x
        still = Still(self._streams, through, None if half else _NARROW_ATTENTION)
        weights = _weights(self._model, index, self._options, still)
        root = self._roots[2 * index + half]
        step = Step(self._model.arch, whole, whole, small, still, weights, root, 0, self._walk.known)
        project_half(replace(step, score_images=_NARROW_SCORES, sweeps=_NARROW_SWEEPS))
        return narrow.to(next(self._model.parameters()))


def _weights(model: ViT, index: int, options: SpectralOptions, streams: Streams | Still) -> Tensor:
    return token_weights(model.arch, index, options.focus / 100).to(streams.device)


def _require_target(dense: Architecture, target: Architecture) -> None:
    require_projectable(dense, target)
    if replace(target, blocks=dense.blocks) != dense or target.depth != dense.depth:
        raise ValueError("the target must be the model's architecture with narrower blocks")
    for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
        if after.heads != before.heads:
            raise ValueError(
                "spectral pruning keeps every head: set heads to 0, or name a criterion that removes some "
                "first (heads-by)"
            )
        for name in ("qk", "v", "mlp"):
            left, width = getattr(after, name), getattr(before, name)
            if left > width:
                raise ValueError(f"cannot keep {left} of {width} in {name} of block {index}")


def _copy_what_stays(dense: nn.Module, small: nn.Module) -> None:
    own = small.state_dict()
    stays = {name: value for name, value in dense.state_dict().items() if own[name].shape == value.shape}
    small.load_state_dict(stays, strict=False)
