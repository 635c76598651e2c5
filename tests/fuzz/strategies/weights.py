"""Weights files: tensors that are none, too large or odd, objects around them, headers and bytes edited."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch
from hypothesis import strategies as st

from tests.fuzz.cases import Content
from tests.fuzz.strategies.json_files import edited, values
from tests.fuzz.strategies.raw_bytes import altered, damaged

# each from a plain tensor
TENSORS: dict[str, Callable[[torch.Tensor], Any]] = {
    "expanded": lambda x: torch.zeros(1).expand(2**20, 2**20),
    "strided": lambda x: torch.zeros(64).as_strided((8, 8), (1, 1)),
    "transposed": lambda x: x.T if x.ndim == 2 else x,
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "csr": lambda x: torch.eye(4).to_sparse_csr(),
    "quantised": lambda x: torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8),
    "nested": lambda x: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "complex": lambda x: x.to(torch.complex64),
    "whole numbers": lambda x: x.long(),
    "switches": lambda x: x > 0,
    "half": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "double": lambda x: x.double(),
    "empty": lambda x: x[:0],
    "one number": lambda x: torch.tensor(1.0),
    "many dimensions": lambda x: torch.zeros([1] * 30),
    "not finite": lambda x: torch.full_like(x, float("nan")),
    "huge": lambda x: torch.full_like(x, 1e38),
    "a parameter": torch.nn.Parameter,
    "a view": lambda x: torch.zeros(2, *x.shape)[1],
    "conjugate": lambda x: x.to(torch.complex64).conj(),
    "negated": torch._neg_view,
}
_AROUND: dict[str, Callable[[Any], Any]] = {
    "as it is": lambda state: state,
    "model": lambda state: {"model": state},
    "deep": lambda state: {"state_dict": {"model": {"encoder": {"state_dict": {"model_ema": state}}}}},
    "prefixes": lambda state: {f"module._orig_mod.{name}": x for name, x in state.items()},
    "arguments": lambda state: {"model": state, "args": argparse.Namespace(lr=1)},
    "a list": lambda state: list(state.values()),
    "numbers as names": lambda state: dict(enumerate(state.values())),
    "a tensor": lambda state: next(iter(state.values())),
    "itself": lambda state: _itself(state),  # noqa: PLW0108  # it is defined below,
}


def _itself(state: Any) -> Any:
    around: dict[str, Any] = {"state": state}
    around["model"] = around
    return around


class _Runs:
    def __reduce__(self) -> Any:
        return print, ("code has been executed",)


@st.composite
def checkpoint(draw: st.DrawFn, content: bytes) -> Content:
    """A .pth file, of a training or of a model."""
    if draw(st.integers(0, 4)) < 2:
        return draw(altered(content))
    found = torch.load(io.BytesIO(content), weights_only=True)
    state = found.get("model", found)
    state = dict(list(state.items())[: draw(st.sampled_from([1, 3, 1000]))])
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from([*state]))
        changed = draw(st.sampled_from([*TENSORS, "no tensor"]))
        if changed == "no tensor":
            state[name] = draw(values)
        elif isinstance(state[name], torch.Tensor):
            with warnings.catch_warnings(), suppress(RuntimeError, NotImplementedError, IndexError):
                warnings.simplefilter("ignore")  # torch gives up some kinds of tensors
                state[name] = TENSORS[changed](state[name])  # one that is odd already may not allow it
    whole = _AROUND[draw(st.sampled_from([*_AROUND]))](state)
    if draw(st.integers(0, 19)) == 0:
        whole = {"model": state, "x": _Runs()}
    written = io.BytesIO()
    try:
        if draw(st.integers(0, 9)) == 0:
            pickle.dump(whole, written, protocol=draw(st.integers(0, 5)))
        else:
            torch.save(whole, written, _use_new_zipfile_serialization=draw(st.booleans()))
    except (RuntimeError, NotImplementedError, ValueError):  # torch cannot write such a tensor
        return content
    packed = written.getvalue()
    return draw(damaged(packed)) if draw(st.integers(0, 4)) == 0 else packed


@st.composite
def safetensors(draw: st.DrawFn, content: bytes) -> Content:
    """A .safetensors file with another header, or damaged."""
    if draw(st.integers(0, 4)) < 2:
        return draw(altered(content))
    (size,) = struct.unpack("<Q", content[:8])
    header = draw(edited(json.loads(content[8 : 8 + size])))
    if isinstance(header, dict) and draw(st.booleans()):
        for one in list(header.values())[:3]:
            if isinstance(one, dict) and "dtype" in one:
                one["dtype"] = draw(
                    st.sampled_from(["F64", "F16", "BF16", "F4", "F8_E8M0", "C64", "I64", "BOOL", "U16", "X"])
                )
                one["shape"] = draw(
                    st.sampled_from([one.get("shape"), [2**63], [2**40, 0], [0], [1] * 20, []])
                )
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    size = draw(st.sampled_from([len(text)] * 8 + [0, 2**63, 2**64 - 1, len(text) + 1]))
    return struct.pack("<Q", size) + text + content[8 + struct.unpack("<Q", content[:8])[0] :]
