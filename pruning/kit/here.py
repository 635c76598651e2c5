"""Budgets of other runtimes on this machine: blocks and models are timed by the kit's own program."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch

from analysis.vit import Architecture
from pruning.budget import LatencyTable
from pruning.kit import benchmark
from pruning.kit.device import DeviceTable, Timed
from pruning.kit.graphs import Graphs
from pruning.kit.layout import DENSE, Entry, architecture_id, blocks_of
from pruning.kit.write import fill
from pruning.progress import Progress, quiet

ROUNDS = 15
_WHAT = "Timing widths in ONNX Runtime"


def measure_onnx_table(
    dense: Architecture, batch: int, align: int = 8, int8: bool = False, progress: Progress = quiet
) -> LatencyTable:
    """The dense model and its blocks at every width on offer, timed in ONNX Runtime on this machine.

    Raises:
        ValueError: align is out of its range.
        ExportError: torch gives no program.
    """
    found = [Entry(DENSE, dense, int8=int8), *(replace(e, int8=int8) for e in blocks_of(dense, align))]
    timed = time_entries(dense, found, (batch,), ROUNDS, progress)
    return replace(timed.table(dense, batch, int8), device=None)


def time_entries(
    dense: Architecture,
    found: Sequence[Entry],
    batches: Sequence[int],
    rounds: int,
    progress: Progress = quiet,
) -> DeviceTable:
    """What benchmark.py would write for a kit of these, on this machine with torch's number of threads.

    Raises:
        ExportError: torch gives no program.
    """
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), dense, found, lambda _, share: progress(_WHAT, share / 2))
        files = sorted(path.name for path in Path(folder).glob("*.onnx"))
        listed = [entry.as_data(file) for entry, file in zip(found, files, strict=True)]
        told = lambda share: progress(_WHAT, 0.5 + share / 2)
        times = benchmark.measure(Path(folder), listed, batches, threads, rounds, told=told)
    progress(_WHAT, 1.0)
    entries = tuple(_timed(entry, ms) for entry, ms in zip(found, times, strict=True))
    about = benchmark.about(None, "CPUExecutionProvider")
    return DeviceTable(
        "this machine", architecture_id(dense), threads=threads, rounds=rounds, entries=entries, **about
    )


def _timed(entry: Entry, ms: dict[str, list[float]]) -> Timed:
    by_batch = {int(batch): tuple(times) for batch, times in ms.items()}
    name = architecture_id(entry.arch) if entry.of is None else None
    return Timed(entry.name, entry.int8, entry.widths, by_batch, name, entry.of, entry.tokens)


class OnnxClock:
    """Measures models in ONNX Runtime: each is exported and timed in turns with the dense one."""

    def __init__(self, dense: Architecture, table: LatencyTable, int8: bool = False) -> None:
        self._table, self._int8 = table, int8
        self._images = np.random.default_rng(0).standard_normal(
            (table.batch, dense.in_channels, *dense.image_size), dtype=np.float32
        )
        self._order = random.Random(0)
        self._dense = self._opened(dense)
        self._last: tuple[Architecture, Callable[[], object]] | None = None

    def __call__(self, arch: Architecture) -> float:
        """Milliseconds of a model of these widths: its share of the dense one's."""
        if self._last is None or self._last[0] != arch:
            self._last = arch, self._opened(arch)
        runs = (self._last[1], self._dense)
        times = benchmark.take_turns(runs, ROUNDS, self._order)
        return self._table.model * median(a / b for a, b in zip(*times, strict=True))

    def _opened(self, arch: Architecture) -> Callable[[], object]:
        with tempfile.TemporaryDirectory() as folder:
            with Graphs(Path(folder)) as graphs:
                graphs.write(Entry(DENSE, arch, int8=self._int8), "model.onnx")
            session = benchmark.open_session(Path(folder) / "model.onnx", torch.get_num_threads())
        run = benchmark.runner(session)
        return lambda: run(self._images)
