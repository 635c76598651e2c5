"""Read weights files without executing any code in them, and check every tensor."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from analysis.paths import open_regular, user_path

PICKLED = (".pth", ".pt", ".bin")
MOST_TENSORS = 20_000
MOST_DIMENSIONS = 8  # of a tensor
MOST_NESTED = 8  # objects around the weights of a checkpoint
MOST_WEIGHT = 1e9  # in absolute value; weights of trained models stay below a thousand
MOST_PICKLE = 2**21  # bytes of a checkpoint that are not values; a tensor takes about 200
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
# keys under which training scripts store the weights in a checkpoint, averaged weights first, as in timm
_NESTED_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model", "encoder")
_WRAPPERS = ("module.", "_orig_mod.")  # prefixes added by DistributedDataParallel and torch.compile


def read_weights(file: Path, expected: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Named float32 tensors of a .safetensors file or a .pth, .pt or .bin checkpoint.

    The weights may be nested in the checkpoint under the usual keys (`model`, `state_dict`,
    `model_ema`), at most `MOST_NESTED` deep; the prefixes of DistributedDataParallel and torch.compile are
    removed. Names, shapes and layout are checked before any value is touched, against the tensors of a model
    too where `expected` gives them.

    Raises:
        ValueError: the file does not exist, cannot be read, could run code, does not hold weights, holds
            other tensors than expected, or asks for more memory than its size accounts for.
    """
    file = user_path(file, "the weights file")
    if file.suffix not in (".safetensors", *PICKLED):
        raise ValueError(f"weights must be a .safetensors, .pth, .pt or .bin file, got {file}")
    if not file.is_file():
        raise ValueError(f"there is no weights file at {file}")
    try:
        if file.suffix == ".safetensors":
            loaded: Any = _read_safetensors(file, lambda stored, name: stored.get_tensor(name))
        else:
            loaded = read_pickled(file)
        return unpack(loaded, file, most_bytes=2 * file.stat().st_size, expected=expected)
    except MemoryError as error:
        raise ValueError(f"{file} needs more memory than this machine has free") from error


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
    found = _unwrap(loaded, source)
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
        raise ValueError(f"{source}: weights must be tensors, {name!r:.100} is a {type(value).__name__}")
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
    shapes = _read_safetensors(file, lambda stored, name: stored.get_slice(name).get_shape())
    require_match({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, expected, file)


def _read_safetensors(file: Path, read: Callable[[Any, str], Any]) -> dict[str, Any]:
    """What `read` gives for each name in an open file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            names = stored.keys()
            if len(names) > MOST_TENSORS:
                raise ValueError(f"{file} must hold at most {MOST_TENSORS:,} tensors, got {len(names):,}")
            for name in names:
                _require_shape(name, stored.get_slice(name).get_shape(), file)
            return {name: read(stored, name) for name in names}
    except (SafetensorError, OSError) as error:
        reason = next(iter(str(error).splitlines()), "")
        raise ValueError(
            f"{file} is not a complete safetensors file ({reason[:120]}); copy or download it again"
        ) from error


def _require_shape(name: str, shape: list[int], file: Path) -> None:
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(
            f"{file}: {name!r:.100} has {len(shape)} dimensions, at most {MOST_DIMENSIONS} are read"
        )
    if any(size >= 2**40 for size in shape):
        raise ValueError(f"{file}: {name!r:.100} has a dimension of {max(shape):,}, which no tensor can have")


def read_pickled(file: Path) -> Any:
    """What a PyTorch checkpoint holds: tensors, and objects around them that run no code.

    Raises:
        ValueError: it cannot be read, could run code, or asks for much more memory than its size.
    """
    try:
        return _read_pickled(file)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def _read_pickled(file: Path) -> Any:
    with open_regular(file) as stream:
        start = stream.read(2)
    if start != b"PK" and not start.startswith(b"\x80"):  # zip archive, or a pickle of protocol 2 and up
        raise ValueError(f"{file} is not a PyTorch checkpoint; give one, or a .safetensors file")
    try:
        (_require_small_zip if start == b"PK" else _require_small_pickles)(file)
        # training scripts often store their arguments as a Namespace; unpickling one runs no code
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript and pickle protocols, handled below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused because it holds more than tensors and could run code when loaded; "
            "if you trust it, convert it to .safetensors"
        ) from error
    except _TooLargeError as error:
        raise ValueError(f"{file} is refused because {error}; convert it to .safetensors") from error
    except Exception as error:  # torch raises all kinds of errors on damaged files
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{file} cannot be read as a PyTorch checkpoint ({reason[:120]})") from error


class _TooLargeError(ValueError):
    """Reading a checkpoint would take much more memory than the file."""


def _require_small_zip(file: Path) -> None:
    """Refuse records that unpack to more than the file holds, and a pickle beyond `MOST_PICKLE`."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > file.stat().st_size:
            raise _TooLargeError("it is compressed, and would take more memory than the file")
        for record in records:
            if record.filename.endswith(".pkl"):
                if record.file_size > MOST_PICKLE:
                    raise _TooLargeError(_much_besides_values())
                _require_no_buffers(archive.read(record))


def _require_small_pickles(file: Path) -> None:
    """The same for the format before PyTorch 1.6: five pickles one after the other, then the values."""
    with file.open("rb") as stream:
        try:
            for _ in range(5):
                for _ in pickletools.genops(stream):
                    if stream.tell() > MOST_PICKLE:
                        raise _TooLargeError(_much_besides_values())
        except _TooLargeError:
            raise
        except ValueError:
            if stream.read(1):
                raise
            # the file ends early: all of it has been looked at, and torch says what is wrong with it
        size = stream.tell()
        stream.seek(0)
        _require_no_buffers(stream.read(size))


def _much_besides_values() -> str:
    return f"it holds more than {MOST_PICKLE:,} bytes besides the values of its tensors"


def _require_no_buffers(pickled: bytes) -> None:
    """Refuse the one constructor that torch allows and that takes any amount of memory at once."""
    if b"\nbytearray\n" in pickled:
        raise _TooLargeError("it makes a bytearray, which no weights need")


def _unwrap(loaded: Any, source: object) -> dict[str, Any]:
    for _ in range(MOST_NESTED):
        if not isinstance(loaded, dict):
            break
        key = next((name for name in _NESTED_KEYS if isinstance(loaded.get(name), dict)), None)
        if key is None:
            break
        loaded = loaded[key]
    else:
        raise ValueError(f"{source} must hold named tensors, got objects nested more than {MOST_NESTED} deep")
    if not isinstance(loaded, dict) or not loaded or not all(isinstance(name, str) for name in loaded):
        raise ValueError(f"{source} must hold named tensors (a state_dict), got {type(loaded).__name__}")
    return _without_wrappers(loaded) if any(name.startswith(_WRAPPERS) for name in loaded) else loaded


def _without_wrappers(loaded: dict[str, Any]) -> dict[str, Any]:
    from timm.models import clean_state_dict  # imported late: takes over a second, and few files need it

    state: dict[str, Any] = clean_state_dict(loaded)
    return state
