"""Time the models and blocks in this folder in ONNX Runtime, and write what was measured to one file.

    pip install onnxruntime numpy
    python benchmark.py --batch 1,8 --out device.json

Needs Python 3.9 or later, onnxruntime and numpy; nothing is sent anywhere. In each round everything is run
once, in an order that chance decides, so that whatever else the device does slows all of it alike. The
weights are random: times do not depend on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

VERSION = 2  # of the file that is written
KIT = "kit.json"
WARMUP = 3
LEAST_ROUNDS, MOST_ROUNDS, MOST_BATCH, MOST_THREADS = 5, 10_000, 1024, 1024
LONGEST = 120  # characters of a name
Say = Callable[[str], None]


class Problem(Exception):
    """Something the user can mend, in one sentence."""


# ---- timing


def open_session(file: Path, threads: int, provider: str = "CPUExecutionProvider") -> Any:
    """An ONNX file, opened for one kind of device."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # or else the threads of one model take the cores from the next for some 50 ms
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(file), options, providers=[provider])


def runner(session: Any) -> Callable[[Any], object]:
    """What runs a session once."""
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})


def take_turns(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    order: random.Random,
    told: Callable[[int], None] = lambda _: None,
) -> list[list[float]]:
    """Milliseconds of each in every round, after a warm-up; `told` hears how many rounds are done."""
    spent: list[list[float]] = [[] for _ in runs]
    for turn in range(-WARMUP, rounds):
        for place in order.sample(range(len(runs)), len(runs)):
            began = time.perf_counter()
            runs[place]()
            took = (time.perf_counter() - began) * 1000
            if turn >= 0:
                spent[place].append(round(max(took, 1e-4), 4))
        told(turn + 1)
    return spent


def measure(
    folder: Path,
    entries: Sequence[Mapping[str, Any]],
    batches: Sequence[int],
    threads: int,
    rounds: int,
    provider: str = "CPUExecutionProvider",
    say: Say = lambda _: None,
    told: Callable[[float], None] = lambda _: None,
) -> list[dict[str, list[float]]]:
    """For each entry of a kit its milliseconds in every round, by batch size."""
    import numpy

    runs = []
    for count, entry in enumerate(entries):
        say(f"opening {count + 1} of {len(entries)}")
        told(0.2 * count / len(entries))
        runs.append(runner(open_session(folder / str(entry["file"]), threads, provider)))
    found: list[dict[str, list[float]]] = [{} for _ in entries]
    dice, order = numpy.random.default_rng(0), random.Random(0)
    for done, batch in enumerate(batches):
        shapes = {tuple(entry["shape"]) for entry in entries}
        images = {one: dice.standard_normal((batch, *one)).astype(numpy.float32) for one in shapes}
        bound = [lambda run=run, x=images[tuple(entry["shape"])]: run(x) for run, entry in zip(runs, entries)]
        began = time.monotonic()

        def of_round(played: int, batch: int = batch, done: int = done, began: float = began) -> None:
            told(0.2 + 0.8 * (done + max(0, played) / rounds) / len(batches))
            if played > 0:
                left = (time.monotonic() - began) / (played + WARMUP) * (rounds - played)
                say(f"batch {batch}: round {played} of {rounds}, {left:,.0f} s left")

        for row, times in zip(found, take_turns(bound, rounds, order, of_round)):
            row[str(batch)] = times
    return found


# ---- the device


def processor() -> str:
    """The name of this machine's processor, as far as the system tells it."""
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip().lower() in ("model name", "hardware") and value.strip():
            return _clean(value)
    return _clean(platform.processor() or platform.machine() or "unknown")


def device_name() -> str:
    """The name of this machine's board, else of its processor."""
    return _clean(_text("/proc/device-tree/model")) or processor()


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _clean(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:LONGEST]


def about(name: str | None, provider: str) -> dict[str, str]:
    """What the file says of the device and of what ran the models."""
    import onnxruntime

    return {
        "device": _clean(name or "") or device_name(),
        "processor": processor(),
        "system": _clean(f"{platform.system()} {platform.release()} {platform.machine()}"),
        "runtime": _clean(f"onnxruntime {onnxruntime.__version__}"),
        "provider": provider,
    }


# ---- the command


def main() -> int:
    """Time everything; returns the exit code."""
    args = arguments()
    try:
        run(args)
    except Problem as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: nothing was written", file=sys.stderr)
        return 1
    return 0


def arguments() -> argparse.Namespace:
    """What the user asks for."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--batch", default="1", metavar="1,8", help="batch sizes (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads (default: one for each processor)")
    parser.add_argument("--rounds", type=int, default=30, metavar="N", help="rounds (default: 30)")
    parser.add_argument(
        "--out", type=Path, default=Path("device.json"), metavar="FILE", help="the file to write"
    )
    parser.add_argument("--name", help="the device's name (default: what the system says)")
    parser.add_argument(
        "--provider",
        default="CPUExecutionProvider",
        metavar="NAME",
        help="what computes in ONNX Runtime, such as CUDAExecutionProvider (default: the CPU)",
    )
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Check what is asked for, time everything, and write the file in one go.

    Raises:
        Problem: something is wrong with what was asked for, or with this folder.
    """
    batches = _batches(args.batch)
    threads = args.threads if args.threads is not None else _processors()
    _require("--threads", threads, 1, MOST_THREADS)
    _require("--rounds", args.rounds, LEAST_ROUNDS, MOST_ROUNDS)
    _require_runtime(args.provider)
    folder = Path(__file__).resolve().parent
    kit = _kit(folder)
    out = _writable(args.out)
    entries = kit["entries"]
    print(f"{len(entries)} models and blocks, {threads} threads; stop with Ctrl-C", flush=True)
    try:
        times = measure(folder, entries, batches, threads, args.rounds, args.provider, _Line().say)
    except (MemoryError, RuntimeError, ValueError, OSError) as error:
        raise Problem(f"ONNX Runtime could not run the kit: {' '.join(str(error).split())[:500]}")
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise Problem(f"ONNX Runtime could not run the kit: {' '.join(str(error).split())[:500]}")
    left_out = ("file", "shape")
    found = {
        "version": VERSION,
        "kit": kit["kit"],
        "architecture": kit["architecture"],
        **about(args.name, args.provider),
        "threads": threads,
        "rounds": args.rounds,
        "entries": [
            {name: value for name, value in entry.items() if name not in left_out} | {"ms": ms}
            for entry, ms in zip(entries, times)
        ],
    }
    _write(out, json.dumps(found, allow_nan=False) + "\n")
    print()
    for entry, ms in zip(entries, times):
        if entry["of"] is None:
            told = ", ".join(f"batch {batch} {statistics.median(ms[str(batch)]):.2f} ms" for batch in batches)
            print(f"{entry['name']}: {told}")
    print(f"written: {out}")


def _batches(text: str) -> list[int]:
    try:
        found = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise Problem("--batch must be whole numbers with commas between them, such as 1,8") from None
    for batch in found:
        _require("--batch", batch, 1, MOST_BATCH)
    return found


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise Problem(f"{name} must be from {least} to {most}, got {value}")


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _require_runtime(provider: str) -> None:
    try:
        import numpy  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise Problem(f"{error.name} is missing: pip install onnxruntime numpy") from None
    able = onnxruntime.get_available_providers()
    if provider not in able:
        raise Problem(f"--provider must be one of {', '.join(able)}")


def _kit(folder: Path) -> dict[str, Any]:
    try:
        kit: dict[str, Any] = json.loads((folder / KIT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"{folder / KIT} cannot be read, so this is no kit: {error}") from None
    return kit


def _writable(file: Path) -> Path:
    """Fail now and not after the work: the folder is there, and takes a file."""
    target = file.resolve()
    if target.is_dir():
        raise Problem(f"--out must be a file, {file} is a folder")
    probe = target.with_name(f".{target.name}.part")
    try:
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise Problem(f"{file} cannot be written: {error.strerror}") from None
    return target


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise Problem(f"{file} could not be written: {error.strerror}") from None


class _Line:
    """Progress in one line that is written over, or now and then a line where nobody watches."""

    def __init__(self) -> None:
        self._watched, self._last = sys.stdout.isatty(), 0.0

    def say(self, text: str) -> None:
        if self._watched:
            print(f"\r{text:<60}", end="", flush=True)
        elif time.monotonic() - self._last > 10:
            print(text, flush=True)
            self._last = time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
