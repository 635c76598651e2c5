"""Accuracy of DeiT-Tiny without training: every method, each structure alone and all together at five sizes.

    PRUNESCOPE_DATA=FOLDER python benchmarks/zero_shot.py --write

Calibrated on photos outside the test set; tested on all 650 photos of the validation subset.
Takes about an hour and a half on two cores. Measurements are kept in --keep FILE, so that a run can be
interrupted and continued, or done in parts (--methods, --columns). The plot needs matplotlib
(benchmarks/requirements.txt).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import ROOT, changed, deit_tiny, parser, percent, report, table

from analysis.measure import Evaluation, change_of_counts, cost, evaluate, paired_change
from analysis.models import architecture
from analysis.vit import ViT
from pruning.budget import Budget
from pruning.criteria import CRITERIA
from pruning.cut import Ratios, Scores
from pruning.jobs import Job, Prepared, make_smaller, prepare, solve
from pruning.methods import METHODS, Survey
from pruning.tracked import tracked

# query-key and value channels kept of 64, fraction of MLP neurons removed
SIZES = ((32, 56, 0.10), (24, 48, 0.15), (16, 48, 0.25), (16, 40, 0.35), (16, 32, 0.50))
ALONE = {
    "QK 50 %": Ratios(qk=0.5),
    "V 25 %": Ratios(v=0.25),
    "MLP 30 %": Ratios(mlp=0.3),
    "residual 10 %": Ratios(embed=0.1),
}
TOGETHER = {
    f"{gmacs}": Ratios(qk=1 - qk / 64, v=1 - v / 64, mlp=mlp)
    for gmacs, (qk, v, mlp) in zip((1.02, 0.92, 0.82, 0.71, 0.58), SIZES, strict=True)
}
COLUMNS = ALONE | TOGETHER
WHOLE = tuple(name for name, criterion in CRITERIA.items() if set(criterion.ranks) >= {"qk", "v", "mlp"})
VARIANTS = ("spectral lean", "spectral budget", "spectral", *WHOLE, "snp compensated", "taylor compensated")
HOW = {
    "": "",
    "lean": ", widths by budget, unread tokens left out",
    "budget": ", widths by budget",
    "compensated": ", compensated",
}


@dataclass
class Bench:
    """The model, its images decoded once, and measurements that several variants of a method share."""

    run: Prepared
    photos: list[tuple[torch.Tensor, torch.Tensor]]
    scores: dict[str, Scores]
    full: Evaluation  # of the dense model
    found: Survey | None = None
    surveyed: float = 0  # seconds

    def measure(self, variant: str, ratios: Ratios) -> dict[str, float]:
        """Accuracy, GMACs and processor seconds of pruning, not counting scores and sensitivities."""
        name, _, how = variant.partition(" ")
        job = replace(deit_tiny(), method=name, ratios=ratios, compensate=how == "compensated")
        if name in CRITERIA and name not in self.scores:
            run = self._run(job)
            found = run.method.scores(run.task)
            if found is not None:
                self.scores[name] = found
        solved = how in ("budget", "lean")
        if solved:
            self._survey(job)
        began = time.process_time()
        small = self._on_budget(job, lean=how == "lean") if solved else self._smaller(job)
        seconds = time.process_time() - began
        got = evaluate(small, self.photos)
        change = paired_change(self.full, got)
        return {
            "lost": change.lost,
            "gained": change.gained,
            "images": change.images,
            "top1": got.top1,
            "low": got.top1_low,
            "high": got.top1_high,
            "gmacs": cost(small.arch).gmacs,
            "seconds": seconds,
        }

    def _smaller(self, job: Job) -> ViT:
        return make_smaller(self._run(job), scores=self.scores.get(job.method)).model

    def _run(self, job: Job) -> Prepared:
        return replace(self.run, job=job)

    def _survey(self, job: Job) -> None:
        if self.found is None:
            began = time.process_time()
            run = self._run(replace(job, ratios=Ratios(), align=8))
            self.found = run.method.survey(
                run.task, Budget.images
            )  # always measured, never read from the cache
            self.surveyed = time.process_time() - began

    def _on_budget(self, job: Job, lean: bool) -> ViT:
        """Prune to the GMACs that the ratios leave, with any widths; with `lean`, without unread tokens."""
        if self.found is None:
            raise ValueError("a budget needs sensitivities, which have not been measured yet")
        arch = self.run.dense.model.arch
        asked = Budget(gmacs=cost(job.target(arch)).gmacs)
        job = replace(job, ratios=Ratios(), budget=asked, align=8, skip_unread=lean)
        target = solve(job, arch, self.found.sensitivities).arch
        return make_smaller(self._run(job), target=target).model


def possible(variant: str, column: str) -> bool:
    """Whether a variant applies to a column: a budget needs all structures."""
    return not (variant in ("spectral lean", "spectral budget") and column in ALONE)


def title(variant: str) -> str:
    name, _, how = variant.partition(" ")
    return METHODS[name].title + HOW[how]


def plot(known: dict[str, dict[str, float]], variants: list[str], file: Path) -> None:
    """Draw top-1 against GMACs, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.5), layout="constrained")
    for variant in variants:
        rows = [known[f"{variant}, {c}"] for c in TOGETHER if f"{variant}, {c}" in known]
        if rows:
            errors = [
                [100 * (r["top1"] - r["low"]) for r in rows],
                [100 * (r["high"] - r["top1"]) for r in rows],
            ]
            x, y = [r["gmacs"] for r in rows], [100 * r["top1"] for r in rows]
            axes.errorbar(x, y, errors, marker="o", capsize=3, label=title(variant))
    axes.axhline(100 * known["dense"]["top1"], color="grey", linestyle="--", label="dense, 1.25 GMACs")
    axes.set_xlabel("GMACs")
    axes.set_ylabel("top-1 on 650 photos, %, no training")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.savefig(file, dpi=110)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--methods", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    arguments.add_argument("--columns", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    arguments.add_argument("--keep", type=Path, default=ROOT / "build" / "zero_shot.json")
    arguments.add_argument("--plot", type=Path, help="also plot the five sizes to this file")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    args.keep.parent.mkdir(exist_ok=True)
    kept = json.loads(args.keep.read_text()) if args.keep.exists() else {"cells": {}, "taken": {}}
    known: dict[str, dict[str, float]] = kept["cells"]
    taken: dict[str, str] = kept["taken"]  # when each was measured, and on how many threads
    job = deit_tiny()
    run = prepare(job)
    dense = run.dense
    photos = list(tracked(run.test, dense, "", lambda what, share: None))
    full = evaluate(dense.model, photos)
    bench = Bench(run, photos, {}, full)
    wanted = [(m, c) for c in args.columns for m in args.methods if possible(m, c)]
    for variant, column in wanted:
        key = f"{variant}, {column}"
        if "dense" not in known:
            known["dense"] = {"top1": full.top1, "low": full.top1_low, "high": full.top1_high}
        if key not in known:
            known[key] = bench.measure(variant, COLUMNS[column])
            taken[key] = f"{date.today()} ({args.threads} threads)"
            if bench.surveyed:
                known["survey"] = {"seconds": bench.surveyed}
            args.keep.write_text(json.dumps({"cells": known, "taken": taken}, indent=1))
        print(key, known[key], file=sys.stderr, flush=True)
    for name, columns in (("each structure alone", ALONE), ("everything together", TOGETHER)):
        shown = [c for c in columns if c in args.columns]
        able = [m for m in args.methods if any(possible(m, c) for c in shown)]
        write(known, taken, able, shown, name, args.write)
    if args.plot:
        plot(known, args.methods, args.plot)


def survey_seconds(known: dict[str, dict[str, float]]) -> str:
    """How long measuring the sensitivities took, if they were measured."""
    return f": {known['survey']['seconds']:.0f} s for the latter" if "survey" in known else ""


def unread() -> float:
    """Fraction of the dense model's MACs that is saved by leaving out unread tokens."""
    dense = architecture(deit_tiny().model)
    return 1 - cost(replace(dense, skip_unread=True)).macs / cost(dense).macs


def measured(taken: dict[str, str], variants: list[str], columns: list[str]) -> str:
    """When and on how many threads each row was measured: a run may be continued days later."""
    named: dict[str, list[str]] = {}
    for variant in variants:
        found = {taken[f"{variant}, {column}"] for column in columns if possible(variant, column)}
        named.setdefault(" and ".join(sorted(found)), []).append(title(variant))
    return " ".join(f"Measured on {when}: {'; '.join(names)}." for when, names in named.items())


def accuracy(cell: dict[str, float]) -> str:
    """Top-1 with its paired change; with its own interval where it was measured before changes were kept."""
    if "lost" not in cell:
        return percent(cell["top1"], cell["low"], cell["high"])
    change = change_of_counts(int(cell["lost"]), int(cell["gained"]), int(cell["images"]))
    return changed(cell["top1"], change)


def write(
    known: dict[str, dict[str, float]],
    taken: dict[str, str],
    variants: list[str],
    columns: list[str],
    name: str,
    keep: bool,
) -> None:
    """Report one section: a row for each method, a column for each ratio."""
    if not columns:
        return
    full = known["dense"]
    rows = []
    for variant in variants:
        cells = [known.get(f"{variant}, {column}") for column in columns]
        shown = [
            f"{accuracy(c)}, {100 * c['top1'] / full['top1']:.1f} % of dense"
            + (f", {c['seconds']:.0f} s" if "seconds" in c else "")
            if c
            else "–"
            for c in cells
        ]
        rows.append([title(variant), *shown])
    widths = "; ".join(
        f"{c} GMACs: ({qk}, {v}, {mlp:.0%})".replace("%", " %")
        for c, (qk, v, mlp) in zip(TOGETHER, SIZES, strict=True)
    )
    body = (
        "Top-1 of DeiT-Tiny (LayerNorms rounded) without training, with the paired change against the dense "
        "model, its 95 % interval and the p-value of the same test, McNemar (where these are missing, with a "
        "95 % Wilson interval), the share of the dense "
        "model's top-1 that is left, and processor seconds of pruning, summed over threads "
        "(without scores and the sensitivities for budgets, which are measured "
        f"once{survey_seconds(known)}), on 650 photos, an easy subset of the ImageNet-1k validation set. "
        f"Dense: {percent(full['top1'], full['low'], full['high'])}. Calibration: photos of ten classes, "
        "256 for spectral pruning and compensation, 64 for scores, none of them a test photo. The settings "
        "of spectral pruning were compared on these very photos, so its figures are somewhat optimistic. "
        f"{measured(taken, variants, columns)}\n\n"
    )
    if columns[0] in TOGETHER:
        body += "Query-key and value channels kept of 64 in every block, fraction of MLP neurons removed: "
        body += f"{widths}. Widths by budget: the same GMACs, with free widths for each block, in multiples "
        body += "of 8. Unread tokens left out: the last block computes only the class token, besides keys "
        body += f"and values, which gives the same predictions with {100 * unread():.1f} % fewer of the "
        body += "dense model's MACs; the budget spends them on width.\n\n"
    report(f"Zero-shot, {name}, DeiT-Tiny", body + table(["Method", *columns], rows), keep)


if __name__ == "__main__":
    main()
