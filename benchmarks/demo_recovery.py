"""The demo with 40 % fewer parameters, by GOHSP + recovery and by spectral + recovery, on all test scenes.

    python benchmarks/demo_recovery.py --write

Ends with exit code 1 if either falls more than half a point below the dense demo, or if all of it takes
more than 20 minutes of two cores. Settings were chosen on scenes that are neither trained nor tested on.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import parser, percent, report, table

from analysis.data import open_data
from analysis.measure import cost, evaluate
from analysis.models import LoadedModel, load
from analysis.vit import Architecture
from pruning.budget import Budget
from pruning.cut import Ratios
from pruning.jobs import Job, PruneResult, prune
from pruning.progress import Monitor, quiet
from pruning.tracked import tracked

REMOVED = 0.4  # of the parameters
BELOW = 0.005  # of the dense demo's top-1, at most
MINUTES = 20

GOHSP = Job(
    "demo",
    "demo",
    method="gohsp",
    ratios=Ratios(heads=1 / 6, qk=0.25),
    options=(("sparsity", REMOVED), ("train_images", 12_800)),
    recovery=(("epochs", 1), ("images", 12_800), ("test_every", 10)),
)


def spectral(dense: LoadedModel) -> Job:
    """Widths by a budget of parameters."""
    budget = Budget(params=(1 - REMOVED) * cost(dense.model.arch).params)
    recovery = (("epochs", 1), ("images", 6_400), ("lr", 2e-4), ("test_every", 10))
    return Job("demo", "demo", method="spectral", budget=budget, align=8, recovery=recovery)


class Clock(Monitor):
    """Seconds of each step, as far as it tells its progress."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.what, self.since = "", time.perf_counter()

    def __call__(self, what: str, share: float) -> None:
        """What is being done now; the time up to here belongs to what was being done before."""
        now = time.perf_counter()
        if self.what:
            self.seconds[self.what] = self.seconds.get(self.what, 0.0) + now - self.since
        if what != self.what:
            print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
        self.what, self.since = what, now


def row(name: str, arch: Architecture, top1: tuple[str, str], seconds: float | None) -> list[str]:
    costs = cost(arch)
    return [
        name,
        f"{costs.params:,}",
        f"{costs.gmacs:.4f}",
        *top1,
        "" if seconds is None else f"{seconds:.0f}",
    ]


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    began = time.perf_counter()
    dense = load("demo")
    test = open_data("demo", dense.preprocess, dense.model.arch.num_classes, "test")
    before = evaluate(dense.model, tracked(test, dense, "", quiet))
    whole = percent(before.top1, before.top1_low, before.top1_high)
    rows = [row("Dense", dense.model.arch, ("", whole), None)]
    missed, steps = [], []
    for name, job in (("GOHSP + recovery", GOHSP), ("Spectral + recovery", spectral(dense))):
        clock = Clock()
        outcome = prune(job, dense=dense, before=before, progress=clock)
        rows.append(measured(name, outcome))
        spent = ", ".join(f"{what.lower()} {took:.0f}" for what, took in clock.seconds.items() if took >= 0.5)
        steps.append(f"{name}, seconds: {spent}.")
        if outcome.after.top1 < before.top1 - BELOW:
            missed.append(f"{name} lost {before.top1 - outcome.after.top1:.2%}, allowed are {BELOW:.1%}")
    minutes = (time.perf_counter() - began) / 60
    processor = sum(os.times()[:4]) / 60
    if min(minutes, processor / 2) > MINUTES:  # beside other work the clock says little
        missed.append(f"it took {minutes:.1f} minutes, allowed are {MINUTES}")
    head = ["", "Parameters", "GMACs", "Top-1 before recovery", "Top-1 (95 % interval)", "Seconds"]
    words = (
        f"The demo with {REMOVED:.0%} fewer parameters, on all {len(test):,} test scenes. GOHSP: one of six "
        "heads and a quarter of the query-key pairs, value channels and neurons as needed, trained towards "
        "the structure on 12,800 scenes and recovered on 12,800. Spectral: widths by a budget of parameters, "
        "recovered on 6,400. The teacher of both is the dense demo. All of it took "
        f"{minutes:.1f} minutes by the clock and {processor:.1f} of processor time; on a machine with other "
        "work to do the clock, and the seconds below, say little.\n\n"
    ).replace("%", " %")
    report(
        "The demo, 40 % fewer parameters", words + table(head, rows) + "\n\n" + "\n\n".join(steps), args.write
    )
    if missed:
        sys.exit("missed: " + "; ".join(missed))


def measured(name: str, outcome: PruneResult) -> list[str]:
    """A smaller model in the table."""
    start, after = outcome.start, outcome.after
    shown = percent(after.top1, after.top1_low, after.top1_high)
    first = "" if start is None else f"{start.top1:.1%}".replace("%", " %")
    return row(name, outcome.pruned.model.arch, (first, shown), outcome.seconds)


if __name__ == "__main__":
    main()
