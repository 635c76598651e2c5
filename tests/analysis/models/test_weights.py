"""Weights files that are made to hang, to take memory, or to hold what is no plain tensor."""

from __future__ import annotations

import json
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from analysis.models import weights
from analysis.models.weights import read_weights, unpack

NAME = "head.weight"


@pytest.fixture(autouse=True)
def _in_time() -> Iterator[None]:
    """Each within ten seconds: what loops for ever fails here instead of hanging."""

    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refusal(file: Path) -> str:
    """The sentence that refuses a file, without the file's folder."""
    with pytest.raises(ValueError, match=r"^[^\n]{10,400}$") as info:
        read_weights(file)
    assert file.name in str(info.value)
    return str(info.value).removeprefix(str(file.parent) + "/")


def saved(folder: Path, content: Any, **options: Any) -> Path:
    file = folder / "w.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nested and sparse tensors are prototypes
        torch.save(content, file, **options)
    return file


def pickled(folder: Path, content: bytes, compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint around a pickle that is written by hand."""
    file = folder / "w.pth"
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        archive.writestr("archive/version", "3\n")
    return file


def header(folder: Path, content: Any, data: bytes = b"") -> Path:
    """A safetensors file around a header that is written by hand."""
    file = folder / "w.safetensors"
    text = json.dumps(content).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return file


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keys", [("model",), ("model", "state_dict", "encoder")])
def test_a_checkpoint_that_contains_itself(keys: tuple[str, ...], legacy: bool, tmp_path: Path) -> None:
    whole: dict[str, Any] = {}
    inner = whole
    for key in keys[:-1]:
        inner[key] = {}
        inner = inner[key]
    inner[keys[-1]] = whole
    file = saved(tmp_path, whole, _use_new_zipfile_serialization=not legacy)
    assert refusal(file) == "w.pth must hold named tensors, got objects nested more than 8 deep"


@pytest.mark.parametrize("depth", [9, 1000, 50_000])
def test_nesting_is_bounded(depth: int, tmp_path: Path) -> None:
    file = pickled(tmp_path, b"}X\x05\0\0\0model" * depth + b"}" + b"s" * depth)
    assert refusal(file) == "w.pth must hold named tensors, got objects nested more than 8 deep"


def test_nested_as_training_scripts_do(tmp_path: Path) -> None:
    file = saved(tmp_path, {"model": {"state_dict": {"encoder": {NAME: torch.ones(3)}}}})
    assert read_weights(file)[NAME].tolist() == [1, 1, 1]


EXPANDED = {
    "expanded": lambda: torch.zeros(1).expand(100_000, 100_000),
    "half": lambda: torch.zeros(1).half().expand(100_000, 100_000),
    "small": lambda: torch.zeros(3, 1).expand(3, 2),
    "overlapping": lambda: torch.zeros(100).as_strided((50, 50), (1, 1)),
    "parameter": lambda: torch.nn.Parameter(torch.zeros(1).expand(100_000, 100_000)),
}


@pytest.mark.parametrize("make", EXPANDED.values(), ids=EXPANDED)
def test_tensors_larger_than_their_storage(make: Callable[[], Tensor], tmp_path: Path) -> None:
    said = refusal(saved(tmp_path, {NAME: make()}))
    assert "'head.weight' is an expanded tensor of" in said and "contiguous()" in said


def test_one_storage_under_many_names(tmp_path: Path) -> None:
    """Each name would become its own float32 copy."""
    shared = torch.zeros(10_000, dtype=torch.float16)
    file = saved(tmp_path, {f"a{index}": shared for index in range(100)})
    assert "w.pth is refused: its tensors have 2,000,000 bytes, more than twice the size" in refusal(file)
    assert len(read_weights(saved(tmp_path, {"a": shared, "b": shared}))) == 2


SPECIAL = {
    "meta": (lambda: torch.empty(2**40, device="meta"), "without values"),
    "sparse": (lambda: torch.eye(3).to_sparse(), "a sparse tensor"),
    "compressed": (lambda: torch.eye(3).to_sparse_csr(), "a sparse tensor"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
    "jagged": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        "nested",
    ),
    "quantised": (lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8), "quantised"),
    "float4": (lambda: torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4"),
    "complex": (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
    "unsigned": (lambda: torch.ones(3, dtype=torch.uint16), "uint16"),
    "dimensions": (lambda: torch.ones((1,) * 9), "9 dimensions, at most 8"),
    "large": (lambda: torch.tensor([1.0, -1e38]), "weights must be between -1e\\+09 and 1e\\+09"),
}


@pytest.mark.parametrize(("make", "said"), SPECIAL.values(), ids=SPECIAL)
def test_tensors_that_are_not_plain(make: Callable[[], Tensor], said: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some of these kinds are prototypes
        file = saved(tmp_path, {NAME: make()})
        with pytest.raises(ValueError, match=rf"w\.pth.*'head\.weight'.*{said}|{said}.*'head\.weight'"):
            read_weights(file)


def test_floats_of_other_widths_become_float32() -> None:
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        value = unpack({NAME: torch.ones(3).to(dtype)}, "x")[NAME]
        assert value.dtype == torch.float32 and value.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "shape", [[2**63], [2**62], [0, 2**63], [0, 2**64 - 1], [2**32, 2**32, 0], [1] * 10**5]
)
def test_shapes_in_a_header(shape: list[int], tmp_path: Path) -> None:
    size = 0 if 0 in shape else 4
    field = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    refusal(header(tmp_path, {NAME: field}, bytes(size)))


@pytest.mark.parametrize(
    ("dtype", "size"), [("F4", 4), ("F8_E8M0", 8), ("C64", 64), ("F6_E2M3", 6), ("U64", 64)]
)
def test_types_in_a_header(dtype: str, size: int, tmp_path: Path) -> None:
    field = {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}
    refusal(header(tmp_path, {NAME: field}, bytes(size)))


def test_nested_headers_and_too_many_tensors(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    for text in (b"[" * 100_000, b'{"a":' * 100_000):
        file.write_bytes(struct.pack("<Q", len(text)) + text)
        assert "is not a complete safetensors file" in refusal(file)
    field = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    file = header(tmp_path, {f"a{index}": field for index in range(20_001)})
    assert refusal(file) == "w.safetensors must hold at most 20,000 tensors, got 20,001"


def test_checkpoints_that_unpack_to_more_than_they_are(tmp_path: Path) -> None:
    file = pickled(tmp_path, b"](" + b"N" * 10**6 + b"e", zipfile.ZIP_DEFLATED)
    assert "because it is compressed" in refusal(file)
    file = pickled(tmp_path, b"](" + b"N" * (weights.MOST_PICKLE + 1) + b"e")
    assert "more than 2,097,152 bytes besides the values" in refusal(file)
    file.write_bytes(b"\x80\x02](" + b"N" * (weights.MOST_PICKLE + 1) + b"e.")
    assert "more than 2,097,152 bytes besides the values" in refusal(file)


def test_no_buffer_of_any_size_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(torch, "load", load)
    content = b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"
    file = pickled(tmp_path, content)
    assert "because it makes a bytearray" in refusal(file)
    file.write_bytes(b"\x80\x02" + content + b".")
    assert "because it makes a bytearray" in refusal(file)
