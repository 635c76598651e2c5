"""The output of commands: results as text or JSON, progress bars on standard error."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from tqdm import tqdm

from analysis.measure import CLASSES, PairedChange
from pruning import wording
from pruning.budget import amount

Result = dict[str, Any]


class ProgressBars:
    """Progress on standard error: one tqdm bar for each step."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, what: str, share: float) -> None:
        if self._bar is None or self._what != what:
            self.close()
            layout = "{l_bar}{bar}| {elapsed}<{remaining}"
            # disable=None: no bar where standard error is not a terminal
            self._bar = tqdm(
                total=100, desc=wording.printable(what), bar_format=layout, file=sys.stderr, disable=None
            )
            self._what = what
        self._bar.update(round(share * 100) - self._bar.n)

    def close(self) -> None:
        """End the current bar, if there is one."""
        if self._bar is not None:
            self._bar.close()


def log_line(line: str) -> None:
    """Write a line to standard error, in the main process only."""
    if not int(os.environ.get("RANK", "0")):
        sys.stderr.write(wording.printable(line) + "\n")


def exit_unless_main_process() -> None:
    """Under `accelerate launch` or `torchrun`, exit all processes but the first, which writes the result."""
    if int(os.environ.get("RANK", "0")):
        sys.exit(0)


def print_result(result: Result, as_json: bool) -> None:
    """Print a command's result: one JSON object, or one line for each value."""
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if not isinstance(value, dict):
            shown = f"{value:,.4f}" if isinstance(value, float) else wording.printable(str(value))
            print(f"{wording.printable(name):20} {shown}")
        elif "batches" in value:
            _print_timings(name, value["batches"])
        elif "gained" in value:
            change = PairedChange(**value)
            print(f"{name:20} {wording.paired_points(change)}: {wording.by_chance(change)}")
        elif "top1_int8" in value:
            _print_quantised(value)
        elif "asked" in value:
            asked, got = (amount(value[key], value["kind"]) for key in ("asked", "got"))
            where = f", predicted for {value['predicted_for']}" if value.get("predicted_for") else ""
            print(f"{name:20} asked for {asked}, got {got}{wording.printable(where)}")


def _print_quantised(report: Result) -> None:
    change = PairedChange(**report["top1_change"])
    name = wording.ACCURACY[report["measure"]]
    print(f"{report['file']}: {name} {report['top1_int8']:.2%}, float {report['top1_float']:.2%}")
    print(f"  {wording.paired_points(change)}: {wording.by_chance(change)}")
    divergence = "KL divergence" if report["measure"] == CLASSES else "divergence of features"
    print(f"  {report['agreement']:.2%} of the predictions agree, {divergence} {report['kl']:.4f}")
    print(f"  {report['bytes_int8']:,} bytes, float {report['bytes_float']:,}")
    _print_timings(report["runtime"], report["timings"])


def _print_timings(backend: str, batches: Result) -> None:
    for batch, timing in batches.items():
        speedup, low, high = (timing[key] for key in ("speedup", "speedup_low", "speedup_high"))
        times = f"{wording.with_bounds(speedup, low, high)} times as fast"
        print(f"{backend}, batch {batch}: {times}, {timing['verdict']} in {timing['rounds']} rounds")
        for side in ("a", "b"):
            shown = ", ".join(f"{key} {ms:.2f}" for key, ms in timing[f"{side}_ms"].items())
            print(f"  {side}, ms: {shown}")
