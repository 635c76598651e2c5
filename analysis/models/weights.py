"""Read weights files without executing any code in them, and check every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.models.bundle_files import IN_FULL
from analysis.models.candidates import Candidate, candidates, named_tensors
from analysis.models.weights_files import (
    MOST_DIMENSIONS,
    MOST_PICKLE,
    MOST_TENSORS,
    read_pickled,
    read_safetensors,
    read_stored,
)
from analysis.paths import user_path

__all__ = [
    "MOST_PICKLE",
    "checked",
    "read_candidates",
    "read_pickled",
    "read_weights",
    "require_header",
    "require_match",
    "unpack",
]

MOST_WEIGHT = 1e9  # in absolute value; weights of trained models stay below a thousand
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)


def read_weights(file: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Named float32 tensors of a weights file, in the format that its content shows.

    Where `expected` gives the tensors of a model, the file must hold just those. Without it the tensors may
    lie anywhere in the file; they are those of its first `Candidate`, or of the dictionary with the most
    tensors. Names, shapes and layout are checked before any value is touched.

    Raises:
        ValueError: the file does not exist, cannot be read, could run code, does not hold weights, holds
            other tensors than expected, or asks for more memory than its size accounts for.
    """
    file, loaded = _stored(file)
    first = next(iter(candidates(loaded)), None) if expected is None else None
    return _in_memory(loaded if first is None else first.state, file, expected)


def read_candidates(file: Path) -> tuple[Candidate, ...]:
    """The places in a weights file that hold a Vision Transformer, averages first; they are not checked yet.

    Raises:
        ValueError: the file does not exist, cannot be read, or could run code.
    """
    return candidates(_stored(file)[1])


def checked(candidate: Candidate, file: Path) -> Candidate:
    """The candidate with float32 tensors, every one checked as `unpack` does.

    Raises:
        ValueError: a tensor is refused.
    """
    return replace(candidate, state=_in_memory(candidate.state, file, None))


def _stored(file: Path) -> tuple[Path, Any]:
    file = user_path(file, "the weights file")
    if not file.is_file():
        folder = ", which is a folder: give the file in it" if file.is_dir() else ""
        raise ValueError(f"there is no weights file at {file}{folder}")
    try:
        return file, read_stored(file)
    except MemoryError as error:
        raise _too_large(file) from error


def _in_memory(found: Any, file: Path, expected: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    try:
        return unpack(found, file, most_bytes=2 * file.stat().st_size, expected=expected)
    except MemoryError as error:
        raise _too_large(file) from error


def _too_large(file: Path) -> ValueError:
    return ValueError(f"{file} needs more memory than this machine has free")


def unpack(
    loaded: Any,
    source: object,
    *,
    most_bytes: int | None = None,
    expected: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The named tensors of a loaded checkpoint, floating-point ones converted to float32.

    Together they may have `most_bytes`: several names may share one storage, but not without end.

    Raises:
        ValueError: an entry is not a plain tensor, there are too many, they are not those expected, or a
            value is NaN, infinite or beyond `MOST_WEIGHT`.
    """
    found = named_tensors(loaded, source)
    if len(found) > MOST_TENSORS:
        raise ValueError(f"{source} must hold at most {MOST_TENSORS:,} tensors, got {len(found):,}")
    for name, value in found.items():
        _require_plain(name, value, source)
    total = sum(value.numel() * value.element_size() for value in found.values())
    if most_bytes is not None and total > most_bytes:
        raise ValueError(
            f"{source} is refused: its tensors have {total:,} bytes, more than twice the size of the file"
        )
    if expected is not None:
        require_match(found, expected, source)
    state = {}
    for name, value in found.items():
        state[name] = value.detach().to(torch.float32) if value.is_floating_point() else value
        _require_usual(name, state[name], source)
    return state


def _require_plain(name: str, value: Any, source: object) -> None:
    """Refuse all but dense tensors in memory, each within its storage; no value is touched."""
    if not isinstance(value, Tensor):
        raise ValueError(
            f"{source}: weights must be tensors, {name!r:.100} is of type {type(value).__name__}"
        )
    what = f"{source}: {name!r:.100}"
    if type(value) not in (Tensor, nn.Parameter) or value.is_nested or value.is_quantized:
        raise ValueError(f"{what} is a nested, quantised or other special tensor; save it as a plain tensor")
    if value.layout != torch.strided or value.device.type != "cpu":
        kind = "a tensor without values (meta)" if value.is_meta else "a sparse tensor"
        raise ValueError(f"{what} is {kind}; save it as a dense tensor")
    if value.dtype not in DTYPES:
        raise ValueError(f"{what} is {value.dtype}; convert it to float32, float16 or bfloat16")
    if value.ndim > MOST_DIMENSIONS:
        raise ValueError(f"{what} has {value.ndim} dimensions, at most {MOST_DIMENSIONS} are read")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        shape = " x ".join(map(str, value.shape))
        raise ValueError(
            f"{what} is an expanded tensor of {shape}, larger than what is stored of it; "
            "save it after calling contiguous()"
        )


def _require_usual(name: str, value: Tensor, source: object) -> None:
    if not value.is_floating_point() or not value.numel():
        return
    if not value.isfinite().all():
        raise ValueError(f"{source}: all weights must be finite, {name!r} has NaN or infinite values")
    low, high = value.aminmax()
    if max(-low, high) > MOST_WEIGHT:
        raise ValueError(
            f"{source}: weights must be between -{MOST_WEIGHT:g} and {MOST_WEIGHT:g}, "
            f"{name!r} has {float(max(-low, high)):.3g}"
        )


def require_match(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: object) -> None:
    """Check that names and shapes are exactly those of the model, and that all tensors are floating-point.

    Raises:
        ValueError: names the first tensor that does not match, and how many there are.
    """
    shapes = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    problems = []
    if shapes:
        got, want = (" x ".join(map(str, s[shapes[0]].shape)) for s in (state, expected))
        problems.append(f"{len(shapes)} with a wrong shape (first {shapes[0]!r}: {got}, must be {want})")
    if missing:
        problems.append(f"{len(missing)} missing (first {missing[0]!r})")
    if unknown:
        problems.append(f"{len(unknown)} unknown (first {unknown[0]!r})")
    if problems:
        raise ValueError(
            f"{source} holds the weights of another architecture: "
            f"of {len(expected)} tensors expected, {', '.join(problems)}"
        )
    integer = next((name for name, value in state.items() if not value.is_floating_point()), None)
    if integer is not None:
        raise ValueError(f"{source}: weights must be floats, {integer!r} is {state[integer].dtype}")


def require_header(file: Path, expected: Mapping[str, Tensor]) -> None:
    """Check that a safetensors file is whole and has the tensors expected, without reading their values.

    Raises:
        ValueError: it is damaged, or as `require_match`.
    """
    shapes = read_safetensors(file, lambda stored, name: stored.get_slice(name).get_shape())
    require_match({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, expected, file)


def is_half(file: Path) -> bool:
    """Whether all tensors of a safetensors file but those `IN_FULL` are float16; only its header is read.

    Raises:
        ValueError: it is damaged.
    """
    kinds = read_safetensors(file, lambda stored, name: stored.get_slice(name).get_dtype())
    return {kind for name, kind in kinds.items() if not name.endswith(IN_FULL)} == {"F16"}
