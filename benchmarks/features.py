"""DeiT-Tiny without its head, as a backbone: what its features are worth after default budgets, untrained.

    PRUNESCOPE_DATA=FOLDER python benchmarks/features.py --write [--sizes GMACS ...]

Calibrated on the photos of the gallery, which are none of the queries. Takes about half an hour on one core.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import changed, data_folder, deit_tiny, parser, percent, report, table

from analysis.measure import Evaluation, Likeness, cost, paired_change
from analysis.models import Reading
from pruning.budget import Budget
from pruning.jobs import Job, PruneResult, prune

SIZES = (0.82, 0.58)
KEPT = {0.82: 0.98, 0.58: 0.93}  # shares of the dense k-NN top-1 that are aimed at
# what of the features is to stay: `skip_unread` of the job
WAYS = {None: "pooled feature and patch tokens", True: "pooled feature alone"}


def main() -> None:
    """Measure every size both ways."""
    arguments = parser(__doc__)
    arguments.add_argument("--sizes", type=float, nargs="+", default=SIZES, metavar="GMACS")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    rows: list[list[str]] = []
    first: PruneResult | None = None
    for lean, way in WAYS.items():
        for size in args.sizes:
            found = _pruned(size, lean, first)
            first = first or found
            rows.append(_row(way, size, found))
            print(*rows[-1], sep=" | ", flush=True)
    if first is not None:
        report("Features of a backbone, without training", _body(first, rows), args.write)


def backbone() -> Job:
    """DeiT-Tiny without its head; its gallery is the photos it is calibrated on."""
    return replace(
        deit_tiny(), data=str(data_folder() / "imagenette-val.zip"), reading=Reading(num_classes=0)
    )


def _pruned(size: float, lean: bool | None, known: PruneResult | None) -> PruneResult:
    job = replace(backbone(), method="spectral", budget=Budget(gmacs=size), align=8, skip_unread=lean)
    if known is None:
        return prune(job)
    return prune(job, dense=known.dense, before=known.before)


def _row(way: str, size: float, found: PruneResult) -> list[str]:
    before, after, fidelity = found.before, found.after, found.after.fidelity
    if fidelity is None:
        raise ValueError("features are compared with the dense model's")
    share = after.top1 / before.top1
    return [
        way,
        f"{cost(found.pruned.model.arch).gmacs:.3f}",
        changed(after.top1, paired_change(before, after)),
        f"{100 * share:.1f} % ({'at least' if share >= KEPT.get(size, 0) else 'short of'} "
        f"{100 * KEPT.get(size, 0):.0f})",
        _cosine(fidelity.pooled),
        "–" if fidelity.tokens is None else _cosine(fidelity.tokens),
        f"{fidelity.cka:.3f}",
    ]


def _cosine(found: Likeness) -> str:
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}), {found.p5:.3f}"


def _body(first: PruneResult, rows: list[list[str]]) -> str:
    dense: Evaluation = first.before
    head = ["what is kept", "GMACs", "k-NN top-1", "of dense"]
    head += ["cosine of pooled features, 5th percentile", "cosine of patch tokens, 5th percentile", "CKA"]
    gmacs = cost(first.dense.model.arch).gmacs
    top1 = percent(dense.top1, dense.top1_low, dense.top1_high)
    return f"""\
DeiT-Tiny, LayerNorms rounded, its head left out, {gmacs:.3f} GMACs. Default budgets (spectral, tokens and
depth, widths in multiples of 8) without training. k-NN: k = 20, by the cosine of the pooled features, votes
weighted by exp(cos / 0.07); gallery and calibration imagenette-train, 2,000 photos of ten classes, most of
which the weights were trained on; queries imagenette-val, {dense.images:,} photos. Dense: {top1}.
Changes are paired, with 95 % interval and p-value (McNemar); cosines are means with 95 % interval.

{table(head, rows)}

A model without a classifier keeps its patch tokens unless `--skip-unread` asks for the pooled feature alone:
then the last block computes no others.
"""


if __name__ == "__main__":
    main()
