"""Budgets of DeiT-Tiny solved on a kit's table, and whether the device that it ran on, this one, meets them.

    PRUNESCOPE_DATA=FOLDER python benchmarks/kit.py --threads 1 --write [--keep FOLDER]

The kit is written and run as on any device, by a process of its own. Widths, tokens and depth are solved on
its table, with the sensitivities of the default method. What comes out is exported as users export it, and
timed against the dense model in turns. With --keep, the kit's table is kept, and read again the next time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, report, table

from analysis.measure import Timing, compare, cost, percentiles, take_turns
from analysis.vit import Architecture, ViT
from pruning.budget import Budget, Sensitivities
from pruning.export import export_onnx, onnx_runner
from pruning.jobs import prepare, solve
from pruning.jobs.survey import kept_survey, surveyed
from pruning.kit import read_device, write_kit

BATCHES = (1, 8)
SHARES = (0.8, 0.65, 0.5)  # of the dense model's time


@dataclass(frozen=True)
class Choice:
    """What was solved for a share of the dense model's time in the kit's table."""

    share: float
    asked: float
    arch: Architecture


def run_kit(dense: Architecture, folder: Path, threads: int) -> Path:
    """Write the kit, run it, and return the file that it writes."""
    write_kit(dense, [], folder / "kit")
    print("running the kit", file=sys.stderr, flush=True)
    words = ["--batch", ",".join(map(str, BATCHES)), "--threads", str(threads), "--name", "this machine"]
    out = folder / "device.json"
    subprocess.run(
        [sys.executable, folder / "kit" / "benchmark.py", *words, "--out", out],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return out


def solved(device: Path, dense: Architecture, sensitivities: Sensitivities, batch: int) -> list[Choice]:
    """What the budgets of one batch size give on the table of a device."""
    job = replace(deit_tiny(), method="spectral", align=8, skip_unread=True)
    whole = read_device(device).table(dense, batch).model
    found = []
    for share in SHARES:
        budget = Budget(ms=share * whole, batch=batch)
        arch = solve(replace(job, budget=budget, device=str(device)), dense, sensitivities).arch
        found.append(Choice(share, share * whole, arch))
    return found


def timed(dense: Architecture, choices: list[Choice], batch: int, rounds: int, folder: Path) -> list[Timing]:
    """Each model against the dense one, all in the same turns."""
    files = [
        export_onnx(ViT(arch).eval(), folder / f"{batch}-{index}.onnx")
        for index, arch in enumerate((dense, *(one.arch for one in choices)))
    ]
    threads = torch.get_num_threads()
    runners = [onnx_runner(file, threads) for file in files]
    shape = (dense.in_channels, *dense.image_size)
    whole, *others = take_turns(runners, shape, (batch,), threads=threads, rounds=rounds, looks=1)[batch]
    print(f"dense at batch {batch}: {percentiles(whole).p50:.1f} ms", file=sys.stderr, flush=True)
    return [compare(one, whole, looks=1) for one in others]


def row(batch: int, choice: Choice, timing: Timing) -> list[str]:
    """A budget, what it gave, and what it takes as a share of the dense model's time."""
    arch, got = choice.arch, 1 / timing.speedup
    merged = sum(block.merge for block in arch.blocks)
    halves = sum((not block.heads) + (not block.mlp) for block in arch.blocks)
    bounds = (timing.speedup_high or timing.speedup, timing.speedup_low or timing.speedup)
    off = [100 * (1 / speedup / choice.share - 1) for speedup in bounds]
    return [
        str(batch),
        f"{choice.asked:.1f} ms, {choice.share:.0%}".replace("%", " %"),
        f"{cost(arch).gmacs:.2f}",
        str(merged),
        str(halves),
        f"{timing.a_ms.p50:.1f} ms, {100 * got:.1f} %",
        f"{100 * (got / choice.share - 1):+.1f} % ({off[0]:+.1f} to {off[1]:+.1f})",
    ]


HEAD = ["Batch", "Asked", "GMACs", "Tokens merged", "Halves left out", "Got", "Missed by"]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--keep", type=Path, help="folder in which the kit's table is kept")
    arguments.add_argument("--rounds", type=int, default=60)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    run = prepare(replace(deit_tiny(), method="spectral", align=8, skip_unread=True))
    dense = run.dense.model.arch
    survey = kept_survey(run, Budget.images) or surveyed(run, Budget.images)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = args.keep or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        device = folder / "device.json"
        if not device.exists():
            run_kit(dense, folder, args.threads)
        for batch in BATCHES:
            choices = solved(device, dense, survey.sensitivities, batch)
            print("timing", file=sys.stderr, flush=True)
            for choice, timing in zip(
                choices, timed(dense, choices, batch, args.rounds, Path(place)), strict=True
            ):
                rows.append(row(batch, choice, timing))
                print(rows[-1], file=sys.stderr, flush=True)
    body = (
        "Budgets in milliseconds of DeiT-Tiny, solved by the default method on the table that a kit wrote on "
        "this machine, taken as the device (ONNX Runtime on the CPU): asked for in the kit's milliseconds "
        "and as a share of the dense model's; what was solved, exported and timed against the dense model in "
        f"turns, median of {args.rounds} rounds; and by how much the share was missed, with its 95 % "
        "interval. Weights are random, as times do not depend on them.\n\n" + table(HEAD, rows)
    )
    report("Budgets of another device, DeiT-Tiny", body, args.write)


if __name__ == "__main__":
    main()
