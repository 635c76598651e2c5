"""Read what a file of weights holds: safetensors, PyTorch checkpoints, NumPy archives.

The content decides, not the suffix. No code in a file is run, and none takes much more memory than its size.
"""

from __future__ import annotations

import argparse
import io
import math
import pickle
import pickletools
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._utils import IMPORT_MAPPING, NAME_MAPPING

from analysis.paths import open_regular

MOST_TENSORS = 20_000
MOST_DIMENSIONS = 8  # of a tensor
MOST_PICKLE = 2**21  # bytes of a checkpoint that are not values; a tensor takes about 200
MOST_CLASSES = 64  # that one checkpoint names and PyTorch does not know
MOST_OBJECTS = 100_000  # of a checkpoint with such classes; a tensor takes two

# Values that scripts keep beside the weights: when they are read, they become stand-ins that hold nothing.
_VALUES = ("numpy.", "pathlib.", "datetime.", "decimal.", "fractions.", "uuid.")
_BUILTINS = "bool dict float frozenset int list object range slice str tuple"
_PLAIN_OF_TORCH = ("torch.optim.", "torch.torch_version.", "torch.utils.data.")
# How files begin that are taken for weights and hold none, and what to do about it.
_OTHERS = {
    b"version https://git-lfs": "is a pointer of Git LFS, no weights: fetch them with `git lfs pull`",
    b"<": "is a web page or XML, no weights: download the file itself",
    b"\x1f\x8b": "is compressed (gzip): unpack it, and give the file of weights in it",
    b"BZh": "is compressed (bzip2): unpack it, and give the file of weights in it",
    b"\xfd7zXZ": "is compressed (xz): unpack it, and give the file of weights in it",
    b"7z\xbc\xaf": "is compressed (7z): unpack it, and give the file of weights in it",
    b"\x89HDF": "is an HDF5 file, as Keras writes them: give PyTorch or safetensors weights of the model",
    b"\x93NUMPY": "is a single array of NumPy: give a file that holds all weights by name, such as .npz",
    b"{": "is JSON, no weights: of weights in several files give the folder, with its config.json",
}
_LOADING = threading.Lock()  # what torch allows besides its own classes is one list for all threads


def read_stored(file: Path) -> Any:
    """What a file of weights holds: named tensors, or the objects around them.

    Raises:
        ValueError: it cannot be read, could run code, or asks for much more memory than its size.
    """
    with open_regular(file) as stream:
        beginning = stream.read(512)
    start = beginning[:9]
    pickled = start[:2] in tuple(bytes((0x80, protocol)) for protocol in range(6))
    if not (pickled or start.startswith(b"PK") or start[8:] == b"{"):
        _require_no_other(file, beginning)
    if _is_safetensors(start, file) or (
        file.suffix == ".safetensors" and not pickled and not start.startswith(b"PK\x03\x04")
    ):
        return read_safetensors(file, lambda stored, name: stored.get_tensor(name))
    if start.startswith(b"PK") and _is_numpy(file):
        return _read_arrays(file)
    return read_pickled(file, stand_ins=True)


def _require_no_other(file: Path, beginning: bytes) -> None:
    """Refuse by name what is often given in the place of weights."""
    if not beginning:
        raise ValueError(f"{file} is empty: copy or download it again")
    for start, said in _OTHERS.items():
        if beginning.lstrip(b" \r\n\t").startswith(start):
            raise ValueError(f"{file} {said}")
    if beginning[257:262] == b"ustar":
        raise ValueError(f"{file} is an archive (tar): unpack it, and give the file of weights in it")


def _is_safetensors(start: bytes, file: Path) -> bool:
    """Whether a file begins with the length of a header that fits, and with that header."""
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= file.stat().st_size - 8


def _is_numpy(file: Path) -> bool:
    """Whether a zip archive holds arrays of NumPy and no pickle."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except Exception:  # damaged archives raise all kinds of errors; the reader of checkpoints reports them
        return False
    return any(name.endswith(".npy") for name in names) and not any(name.endswith(".pkl") for name in names)


def read_safetensors(file: Path, read: Callable[[Any, str], Any]) -> dict[str, Any]:
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


def read_pickled(file: Path, *, stand_ins: bool = False) -> Any:
    """What a PyTorch checkpoint holds: tensors, and objects around them that run no code.

    With `stand_ins`, values of NumPy, paths, dates and plain objects become stand-ins that hold nothing; a
    class of the checkpoint is never looked up. Any other call is refused.

    Raises:
        ValueError: it cannot be read, could run code, or asks for much more memory than its size.
    """
    try:
        return _read_pickled(file, stand_ins)
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror or error}") from error


def _read_pickled(file: Path, stand_ins: bool) -> Any:
    with open_regular(file) as stream:
        start = stream.read(2)
    if start != b"PK" and not start.startswith(b"\x80"):  # zip archive, or a pickle of protocol 2 and up
        raise ValueError(f"{file} is not a PyTorch checkpoint; give one, or a .safetensors file")
    try:
        pickled = (_require_small_zip if start == b"PK" else _require_small_pickles)(file)
        known = _stand_ins(pickled) if stand_ins else ()
        # training scripts often store their arguments as a Namespace; unpickling one runs no code
        with _allowed(argparse.Namespace, *known), warnings.catch_warnings(), file.open("rb") as stream:
            warnings.simplefilter("ignore")  # about TorchScript and pickle protocols, handled below
            return torch.load(stream, map_location="cpu", weights_only=True)  # by its path, a suffix decides
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused because it holds more than tensors and could run code when loaded; "
            "if you trust it, convert it to .safetensors"
        ) from error
    except _TooLargeError as error:
        raise ValueError(f"{file} is refused because {error}; convert it to .safetensors") from error
    except _OtherArchiveError as error:
        raise ValueError(f"{file} {error}") from error
    except Exception as error:  # torch raises all kinds of errors on damaged files
        reason = (next(iter(str(error).splitlines()), "") or type(error).__name__)[:120]
        advice = "; it may be incomplete: copy or download it again"
        if "TorchScript" in str(error):
            reason, advice = "it is a TorchScript program; save the state_dict of the model instead", ""
        raise ValueError(f"{file} cannot be read as a PyTorch checkpoint ({reason}){advice}") from error


@contextmanager
def _allowed(*known: Any) -> Iterator[None]:
    with _LOADING, torch.serialization.safe_globals(list(known)):
        yield


class _Value:
    """Stands for a value of a harmless class, such as a NumPy scalar or a path; holds nothing."""

    def __new__(cls, *_: Any) -> _Value:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _NotCalled(type):
    def __call__(cls, *_: Any) -> Any:
        raise pickle.UnpicklingError("a function or class that is not known would be called")


class _Plain(metaclass=_NotCalled):
    """Stands for a class that is not known. An object of it is a dictionary; calling it is refused.

    A pickle makes plain objects without calling their class; what calls something, such as a function of the
    system, is how code is run.
    """

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()  # the one class of dictionaries that torch fills and gives attributes


_EMPTY: dict[str, Callable[..., Any]] = {
    "collections.defaultdict": lambda *_: OrderedDict(),
    "collections.deque": lambda *_: [],
    "types.SimpleNamespace": lambda *_: OrderedDict(),
}


def _stand_ins(pickled: bytes) -> list[tuple[Any, str]]:
    """What stands for each class that a pickle names and torch does not know."""
    names, objects = _globals(pickled)
    found = [(stands, name) for name in sorted(names) if (stands := _stand_in(name)) is not None]
    if len(found) > MOST_CLASSES:
        raise _TooLargeError(f"it names {len(found):,} classes besides tensors")
    if found and objects > MOST_OBJECTS:  # torch goes through all classes that are allowed, for every object
        raise _TooLargeError(f"it holds more than {MOST_OBJECTS:,} objects")
    return found


def _stand_in(name: str) -> Any:
    """None for what torch decides about."""
    if name.startswith(_VALUES) or name in {f"builtins.{one}" for one in _BUILTINS.split()}:
        return _Value
    if name in _EMPTY:
        return _EMPTY[name]
    decided = name.startswith(("torch.", "builtins.", "collections.", "_codecs.", "argparse."))
    return _Plain if not decided or name.startswith(_PLAIN_OF_TORCH) else None


def _globals(pickled: bytes) -> tuple[set[str], int]:
    """The full names of all classes and functions in a run of pickles, as torch reads them; and its calls."""
    names, objects, stream = set(), 0, io.BytesIO(pickled)
    with suppress(ValueError):  # it is damaged, or at its end
        while True:
            for opcode, argument, _ in pickletools.genops(stream):
                objects += opcode.name in ("NEWOBJ", "REDUCE", "BUILD")
                if opcode.name == "GLOBAL":
                    module, name = str(argument).split(" ", 1)
                    renamed = IMPORT_MAPPING.get(module, module), name  # written as Python 2 called it
                    names.add(".".join(NAME_MAPPING.get((module, name), renamed)))
    return names, objects


class _TooLargeError(ValueError):
    """Reading a checkpoint would take much more memory than the file."""


class _OtherArchiveError(ValueError):
    """A zip archive that is no checkpoint."""


def _require_small_zip(file: Path) -> bytes:
    """The pickle in an archive; refuses records that unpack to more than the file, and a large pickle."""
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if sum(record.file_size for record in records) > file.stat().st_size:
            raise _TooLargeError("it is compressed, and would take more memory than the file")
        pickles = [record for record in records if record.filename.endswith(".pkl")]
        if records and not pickles:
            raise _OtherArchiveError(
                f"is a zip archive without a PyTorch checkpoint ({records[0].filename!r:.80}): unpack it, "
                "and give the file of weights in it"
            )
        if sum(record.file_size for record in pickles) > MOST_PICKLE:
            raise _TooLargeError(_much_besides_values())
        pickled = b"".join(archive.read(record) for record in pickles)
    _require_no_buffers(pickled)
    return pickled


def _require_small_pickles(file: Path) -> bytes:
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
        pickled = stream.read(size)
    _require_no_buffers(pickled)
    return pickled


def _much_besides_values() -> str:
    return f"it holds more than {MOST_PICKLE:,} bytes besides the values of its tensors"


def _require_no_buffers(pickled: bytes) -> None:
    """Refuse the one constructor that torch allows and that takes any amount of memory at once."""
    if b"\nbytearray\n" in pickled:
        raise _TooLargeError("it makes a bytearray, which no weights need")


def _read_arrays(file: Path) -> dict[str, Any]:
    """The arrays of a NumPy archive (.npz) as tensors; none of them may hold objects."""
    try:
        with zipfile.ZipFile(file) as archive:
            records = [record for record in archive.infolist() if record.filename.endswith(".npy")]
            if len(records) > MOST_TENSORS:
                raise _TooLargeError(f"it holds {len(records):,} arrays, at most {MOST_TENSORS:,} are read")
            if sum(record.file_size for record in records) > 2 * file.stat().st_size:
                raise _TooLargeError("it would take more memory than twice the file")
            return {one.filename.removesuffix(".npy"): _read_array(archive, one) for one in records}
    except _TooLargeError as error:
        raise ValueError(f"{file} is refused because {error}") from error
    except Exception as error:  # damaged archives raise all kinds of errors
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{file} cannot be read as a NumPy archive ({reason[:120]})") from error


def _read_array(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> torch.Tensor:
    """One array, whose header is checked before any memory is taken for it."""
    with archive.open(record) as stream:
        formats = np.lib.format
        first = formats.read_magic(stream) == (1, 0)
        read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        shape, by_columns, dtype = read(stream)
        if dtype.kind not in "fiub":
            raise ValueError(f"{record.filename[:100]!r} is of type {dtype.name}, not of numbers")
        if len(shape) > MOST_DIMENSIONS or min(shape, default=1) < 0:
            raise ValueError(f"{record.filename[:100]!r} has {len(shape)} dimensions")
        if math.prod(shape) * dtype.itemsize != record.file_size - stream.tell():
            raise ValueError(f"{record.filename[:100]!r} is not as long as its header says")
        values = np.frombuffer(stream.read(), dtype)
    whole = values.reshape(shape, order="F" if by_columns else "C")
    return torch.from_numpy(np.ascontiguousarray(whole, dtype.newbyteorder("=")).reshape(shape).copy())
