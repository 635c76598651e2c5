"""Words of every command, made from the parser itself, so that a new option is tried without being named."""

from __future__ import annotations

import argparse
from typing import Any

from hypothesis import strategies as st

from pruning.budget import BUDGET_UNITS
from pruning.cli.arguments import path_argument
from pruning.cli.main import _parser
from pruning.criteria import CRITERIA
from pruning.cut import presets
from pruning.export import FORMATS
from pruning.jobs import BACKENDS, RUNTIMES
from pruning.methods import METHODS
from pruning.training import RECIPES
from tests.fuzz.strategies.texts import anything, names, numbers

# values that are fine for what a name says; options that are not named here take those of their type
GOOD: dict[str, tuple[str, ...]] = {
    "model": ("tiny", "small"),
    "against": ("small",),
    "teacher": ("tiny",),
    "data": ("set", "set.zip", "cifar10:cifar"),
    "calibration": ("set.zip",),
    "test": ("set.zip",),
    "weights": ("weights.pth", "weights.safetensors"),
    "folder": ("runs/prune", "runs/open", "runs/bench"),
    "folders": ("runs/prune", "runs/recover"),
    "out": ("new", "new/deep"),
    "root": ("runs", "elsewhere"),
    "device": ("device.json",),
    "runtime": RUNTIMES,
    "method": tuple(METHODS),
    "heads_by": tuple(CRITERIA),
    "preset": tuple(presets()),
    "format": ("bundle", "bundle,bundle"),
    "backend": ("torch",),
    "recipe": tuple(RECIPES),
    "option": ("images=8", "seed=3", "epochs=1"),
    "recovery": ("epochs=1", "batch=10", "lr=0.001", "workers=0"),
    "keep_heads": ("0.0", "0.1,1.2"),
    "remove_heads": ("0.0", "1.1"),
}
MORE = (*FORMATS, *BACKENDS, *BUDGET_UNITS, "onnx,pt2", "images=0", "images=1e9", "seed=-1", "workers=99999")


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parser of each command."""
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def _good(action: argparse.Action) -> st.SearchStrategy[str]:
    if action.dest in GOOD:
        return st.sampled_from(GOOD[action.dest])
    if action.choices is not None:
        return st.sampled_from([str(one) for one in action.choices])
    if action.type is path_argument:
        return st.sampled_from(["tiny", "set", "runs/prune", "new"])
    return st.sampled_from(["1", "2", "0.5", "8"])


def _bad(action: argparse.Action) -> st.SearchStrategy[str]:
    known: Any = getattr(action.type, "__name__", "")
    if action.type is path_argument or "name" in known:
        return st.one_of(names, names, anything)
    return st.one_of(numbers, numbers, anything, st.sampled_from(MORE))


@st.composite
def words(draw: st.DrawFn) -> tuple[str, ...]:
    """A command with what it needs, some more options, and up to two odd values."""
    name = draw(st.sampled_from(list(parsers())))
    actions = [one for one in parsers()[name]._actions if not isinstance(one, argparse._HelpAction)]
    needed = [one for one in actions if one.required or one.dest in ("out", "qk")]
    others = [one for one in actions if one not in needed]
    chosen = needed + draw(st.lists(st.sampled_from(others), max_size=3, unique_by=id))
    count = draw(st.sampled_from([0, 1, 1, 1, 2]))
    odd = {draw(st.sampled_from(range(len(chosen)))) for _ in range(count)} if chosen else set()
    found: list[str] = []
    for i, action in enumerate(chosen):
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            found.append(draw(st.sampled_from(action.option_strings)))
            continue
        value = draw(_bad(action) if i in odd else _good(action))
        found.append(f"{action.option_strings[0]}={value}" if action.option_strings else value)
    if draw(st.integers(0, 30)) == 0:
        found.insert(draw(st.integers(0, len(found))), draw(anything))
    return (name, *found)
