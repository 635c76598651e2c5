"""What is tried: every reader of a file format, and the command line, each as a function of the case's words.

A target works in the folder of its case. It ends in a result, or in an error that the project means users to
read: `MEANT`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from analysis.data import open_data, read_image
from analysis.models import load
from analysis.models.weights import read_weights
from analysis.setup import setup
from pruning.cli.output import ProgressBars
from pruning.cut import Plan
from pruning.export import ExportError
from pruning.files import OutputError
from pruning.jobs import open_reading, open_trial, read_report, read_timings
from pruning.jobs.survey import read_survey
from pruning.kit import read_device
from pruning.progress import Cancelled
from pruning.runs import FinishedRun, folder, is_finished, read_metrics
from pruning.runs.process import execute
from pruning.runs.queue import spawn
from tests.fuzz.valid import ARCH, PREPROCESS
from tests.support.models import random_images

PATIENCE = 2.0  # seconds after which work that tells its progress is cancelled, which is a right result
MEANT = (ValueError, OutputError, ExportError, Cancelled)  # what a reader may raise
command_line: Any = importlib.import_module("pruning.cli.main")  # `pruning.cli.main` is its function


class Unclear(AssertionError):
    """The command line said something else than one line, or a result is wrong."""


def weights(words: Sequence[str]) -> None:
    """A weights file."""
    for name, value in read_weights(Path(words[0])).items():
        if not bool(value.isfinite().all()):
            raise Unclear(f"{name} is not finite")


def bundle(words: Sequence[str]) -> None:
    """A bundle: its model computes, and what lies beside it is read."""
    place = Path("tiny")
    read_report(place)
    Plan.find(place / "plan.json")
    loaded = load(str(place))
    with torch.inference_mode():
        loaded.model(random_images(loaded.model.arch, 1))


def transformers(words: Sequence[str]) -> None:
    """The folder of a transformers model."""
    loaded = load("./transformers")
    with torch.inference_mode():
        loaded.model(random_images(loaded.model.arch, 1))


def run_folder(words: Sequence[str]) -> None:
    """A run folder, as `runs` and the pages read it, which take whatever lies there."""
    run = folder.read(Path(words[0]))
    run.as_dict()
    assert isinstance(run.title + run.sentence, str)
    folder.list_runs("runs")
    folder.log(run.folder)


def metrics(words: Sequence[str]) -> None:
    """The curves of a run."""
    read_metrics(Path(words[0]))


def finished(words: Sequence[str]) -> None:
    """All that is read of a finished run."""
    run = folder.read(Path(words[0]))
    folder.report(run)
    if not is_finished(run):
        return
    found = FinishedRun(run)
    for name in (
        "origin",
        "arch",
        "report",
        "before",
        "start",
        "after",
        "agreement",
        "plan",
        "heads",
        "when",
    ):
        getattr(found, name)
    found.open_tested(load(str(run.bundle)))


def results(words: Sequence[str]) -> None:
    """The results that are no bundles."""
    readers: dict[str, Callable[[Path], Any]] = {
        "bench": read_timings,
        "heads": open_reading,
        "trial": open_trial,
        "survey": lambda place: read_survey(place / "survey.json"),
    }
    readers[words[0]](Path("runs", words[0]))


def device(words: Sequence[str]) -> None:
    """What a benchmark kit measured on a device, and the tables that budgets are solved on."""
    found = read_device(Path(words[0]))
    for batch in found.batches:
        for int8 in found.precisions:
            found.table(ARCH, batch, int8)


def resumed(words: Sequence[str]) -> None:
    """A run that goes on from its checkpoint."""
    execute(Path(words[0]), progress=_patient())


def image(words: Sequence[str]) -> None:
    """An image file."""
    read = read_image(Path(words[0]))
    if read.mode != "RGB":
        raise Unclear(f"an image of mode {read.mode}")
    PREPROCESS(read)


def images(words: Sequence[str]) -> None:
    """A set of images: a folder, a zip, one with a table, parquet, or CIFAR-10."""
    found = open_data(words[0], PREPROCESS, 10, words[1])
    found.names_id()
    for i in range(min(len(found), 3)):
        PREPROCESS(found.image(i))


def command(words: Sequence[str]) -> int:
    """A command, from its words to what it prints and its exit code."""
    out, err = io.BytesIO(), io.BytesIO()
    written = io.TextIOWrapper(out, "utf-8"), io.TextIOWrapper(err, "utf-8")
    with contextlib.redirect_stdout(written[0]), contextlib.redirect_stderr(written[1]):
        try:
            code = command_line.main(words)
        except SystemExit as stop:  # argparse's way, and that of processes that are not the first
            code = int(stop.code or 0)
        for stream in written:
            stream.flush()
    _require_line(code, out.getvalue().decode(), err.getvalue().decode())
    return code


def _require_line(code: int, out: str, err: str) -> None:
    """Check that a command that failed said why in one line, and that nothing forges or garbles a line."""
    lines = err.splitlines()
    if code not in (0, 1, 2):
        raise Unclear(f"the exit code is {code}")
    ends = [line for line in lines if line.startswith(_ENDS)]
    if code and (out or ends != lines[-1:]):  # notes of the work may stand before it
        raise Unclear(f"exit code {code} with the output {out!r:.200} and the lines {lines!r:.1000}")
    if not all(line.replace("\u00a0", " ").isprintable() and len(line) < 1100 for line in lines):
        raise Unclear(f"these are no lines for a terminal: {lines!r:.500}")
    if code and (said := unclear(lines[-1])):
        raise Unclear(f"a word of the inside of a library: {said} in {lines[-1]!r}")


# ---- what no user should read

_ENDS = ("error: ", "cancelled", "interrupted")
_INNER = (
    *("Traceback", "Caught ", "Error:"),
    *("invalid parse", "invalid int value", "invalid float value", "invalid _", "embedded null", "zip()"),
    *("argument 1", "argument 2", "positional argument", "not subscriptable", "object is not", "unsupported"),
    *("has no attribute", "invalid literal", "could not convert", "Expected `", "out of range for"),
    *("too many values", "not enough values", "unhashable", "codec can't", "size of tensor", "'NoneType'"),
    *("Overflow", "too large to convert", "must be real number", "RuntimeError", "TypeError", "KeyError"),
    *("Exceeds the limit", "invalid load key", "TORCH_CHECK", "mat1 and mat2", "dictionary update"),
)


def unclear(sentence: str) -> str | None:
    """The first part of a message that speaks of code instead of the user's input.

    In brackets, a sentence may give what a library said.
    """
    outside = re.sub(r"\(.*\)", "", sentence)
    return next((part for part in _INNER if part in outside), None)


def _patient() -> Callable[[str, float], None]:
    end = time.process_time() + PATIENCE

    def progress(what: str, share: float) -> None:
        if time.process_time() > end:
            raise Cancelled

    return progress


class _PatientBars(ProgressBars):
    """Progress of a command that is cancelled after a while, as by a user."""

    def __init__(self) -> None:
        super().__init__()
        self._check = _patient()

    def __call__(self, what: str, share: float) -> None:
        self._check(what, share)
        super().__call__(what, share)


def prepare() -> None:
    """Once in the process that tries cases: no network, and runs that are started end at once."""
    setup()
    torch.set_num_threads(1)
    command_line.ProgressBars = _PatientBars
    spawn.COMMAND = (sys.executable, "-S", "-c", "pass")


TARGETS: dict[str, Callable[[Sequence[str]], int | None]] = {
    one.__name__: one
    for one in (
        *(weights, bundle, transformers, run_folder, metrics, finished, results, device, resumed),
        *(image, images, command),
    )
}
# folders and files that a target needs; the fewer, the faster a case
NEEDS = {
    "weights": (),
    "bundle": ("tiny",),
    "transformers": ("transformers",),
    "run_folder": ("runs",),
    "metrics": ("runs",),
    "finished": ("runs", "set", "tiny", "small"),
    "results": ("runs",),
    "device": (),
    "resumed": ("runs", "set", "tiny", "small"),
    "image": (),
    "images": ("set", "set.zip", "cifar", "tabled", "set.parquet"),
    "command": (
        *("tiny", "small", "set", "set.zip", "cifar", "runs"),
        *("weights.pth", "weights.safetensors", "device.json"),
    ),
}
