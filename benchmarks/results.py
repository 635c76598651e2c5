"""What the benchmark scripts share: arguments, data, and sections of RESULTS.md with date and machine."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shlex
import sys
from datetime import date
from pathlib import Path

import torch

from analysis.measure import PairedChange, Timing
from pruning.jobs import Job
from pruning.wording import paired_points, with_bounds

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("RESULTS.md")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the arguments that every script takes."""
    arguments = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--write", action="store_true", help="write the result to RESULTS.md")
    arguments.add_argument("--threads", type=int, default=2, help="number of torch threads")
    return arguments


def data_folder() -> Path:
    """The folder of real weights and photos, which are not part of the project."""
    folder = Path(os.environ.get("PRUNESCOPE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        sys.exit("set PRUNESCOPE_DATA to the folder with the real weights and photos")
    return folder


def deit_tiny() -> Job:
    """DeiT-Tiny on the real photos, with separate photos for calibration and testing."""
    folder = data_folder()
    return Job(
        model="deit_tiny_patch16_224",
        data=str(folder / "imagenet-val-650.zip"),
        calibration=str(folder / "imagenette-train.zip"),
        weights=str(folder / "deit_tiny_patch16_224.safetensors"),
    )


def report(title: str, body: str, write: bool) -> None:
    """Print a section with command, date and machine; with `write`, replace it in RESULTS.md."""
    words = sys.argv[1:]
    for option in ("--keep", "--bundles"):  # folders of this machine
        if option in words:
            place = words.index(option)
            del words[place]
            while place < len(words) and not words[place].startswith("--"):
                del words[place]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])
    section = f"## {title}\n\n`{command}`, {date.today().isoformat()}, {machine()}.\n\n{body.strip()}\n"
    print(section)
    if not write:
        return
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    found = re.compile(rf"## {re.escape(title)}\n.*?(?=\n## |\Z)", re.DOTALL)
    known = found.search(text)
    text = found.sub(lambda _: section, text) if known else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text, encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(share: float, low: float, high: float) -> str:
    """A fraction with its 95 % interval, as percentages."""
    return f"{share:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")


def changed(top1: float, change: PairedChange) -> str:
    """A top-1 accuracy as a percentage, with its paired change against the dense model."""
    return f"{100 * top1:.1f} %, {paired_points(change)}"


def speedup(timing: Timing) -> str:
    """A speed-up with its 95 % interval."""
    return with_bounds(timing.speedup, timing.speedup_low, timing.speedup_high)


def machine() -> str:
    """Processor, number of cores, torch version and threads, as text."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        name = found.group(1) if found else name
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__} on {torch.get_num_threads()} threads"
