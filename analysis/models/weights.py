"""Read weights files without executing any code in them, and check every tensor."""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from analysis.paths import user_path

PICKLED = (".pth", ".pt", ".bin")
# keys under which training scripts store the weights in a checkpoint, averaged weights first, as in timm
_NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "encoder")
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes added by DistributedDataParallel and torch.compile


def read_weights(file: Path) -> dict[str, Tensor]:
    """Named float32 tensors of a .safetensors file or a .pth, .pt or .bin checkpoint.

    The weights may be nested in the checkpoint under the usual keys (`model`, `state_dict`,
    `model_ema`); the prefixes of DistributedDataParallel and torch.compile are removed.

    Raises:
        ValueError: the file does not exist, cannot be read, could run code, or does not hold weights.
    """
    file = user_path(file, "the weights file")
    if file.suffix not in (".safetensors", *PICKLED):
        raise ValueError(f"weights must be a .safetensors, .pth, .pt or .bin file, got {file}")
    if not file.is_file():
        raise ValueError(f"there is no weights file at {file}")
    loaded = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickled(file)
    return unpack(loaded, file)


def unpack(loaded: Any, source: object) -> dict[str, Tensor]:
    """The named tensors of a loaded checkpoint, floating-point ones converted to float32.

    Raises:
        ValueError: an entry is not a tensor, or has values that are NaN or infinite.
    """
    state: dict[str, Tensor] = {}
    for name, value in _unwrap(loaded, source).items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{source}: weights must be tensors, {name!r} is a {type(value).__name__}")
        state[name] = value.to(torch.float32) if value.is_floating_point() else value
        if not state[name].isfinite().all():
            raise ValueError(f"{source}: all weights must be finite, {name!r} has NaN or infinite values")
    return state


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


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is not a complete safetensors file ({error}); copy or download it again"
        ) from error


def _read_pickled(file: Path) -> Any:
    with file.open("rb") as stream:
        start = stream.read(2)
    if start != b"PK" and not start.startswith(b"\x80"):  # zip archive, or a pickle of protocol 2 and up
        raise ValueError(f"{file} is not a PyTorch checkpoint; give one, or a .safetensors file")
    try:
        # training scripts often store their arguments as a Namespace; unpickling one runs no code
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript and pickle protocols, handled below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused because it holds more than tensors and could run code when loaded; "
            "if you trust it, convert it to .safetensors"
        ) from error
    except Exception as error:  # torch raises all kinds of errors on damaged files
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{file} cannot be read as a PyTorch checkpoint ({reason[:120]})") from error


def _unwrap(loaded: Any, source: object) -> dict[str, Any]:
    while isinstance(loaded, dict):
        key = next((name for name in _NESTED_KEYS if isinstance(loaded.get(name), dict)), None)
        if key is None:
            break
        loaded = loaded[key]
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(name, str) for name in loaded):
        raise ValueError(f"{source} must hold named tensors (a state_dict), got {type(loaded).__name__}")
    return _without_wrappers(loaded) if any(name.startswith(_WRAPPERS) for name in loaded) else loaded


def _without_wrappers(loaded: dict[str, Any]) -> dict[str, Any]:
    from timm.models import clean_state_dict  # imported late: takes over a second, and few files need it

    state: dict[str, Any] = clean_state_dict(loaded)
    return state
