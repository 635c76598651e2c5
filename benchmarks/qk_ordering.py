"""Accuracy of DeiT-Tiny without training when only query-key pairs are removed: SNP against baselines.

    PRUNESCOPE_DATA=FOLDER python benchmarks/qk_ordering.py --write

Calibrated on photos outside the test set; tested on all 650 photos of the validation subset.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, percent, report, table

from analysis.models import load
from pruning.criteria import CRITERIA
from pruning.cut import Ratios
from pruning.jobs import PruneResult, prune


def outcomes(ratios: list[float], methods: list[str]) -> dict[tuple[str, float], PruneResult]:
    job = deit_tiny()
    dense, before, found = load(job.model, Path(str(job.weights))), None, {}
    for ratio in ratios:
        for method in methods:
            outcome = prune(replace(job, method=method, ratios=Ratios(qk=ratio)), dense=dense, before=before)
            before = outcome.before
            found[method, ratio] = outcome
            print(method, ratio, outcome.after.top1, f"{outcome.seconds:.0f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7])
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    methods = list(CRITERIA)
    found = outcomes(args.ratios, methods)
    dense = next(iter(found.values())).before
    rows = []
    for method in methods:
        runs = [found[method, ratio].after for ratio in args.ratios]
        rows.append(
            [CRITERIA[method].title, *(percent(run.top1, run.top1_low, run.top1_high) for run in runs)]
        )
    body = (
        "Top-1 of DeiT-Tiny (LayerNorms rounded) before fine-tuning with only query-key pairs removed, with "
        f"95 % Wilson intervals, on {dense.images} photos, an easy subset of the ImageNet-1k validation set. "
        f"Dense: {percent(dense.top1, dense.top1_low, dense.top1_high)}. SNP: 64 calibration images, "
        "gamma 16.\n\n"
    )
    report(
        "Query-key pairs alone, DeiT-Tiny",
        body + table(["Method", *(f"{ratio:.0%} removed".replace("%", " %") for ratio in args.ratios)], rows),
        args.write,
    )
    for ratio in (0.5, 0.7):
        if ratio in args.ratios and not found["snp", ratio].after.top1 > found["l2", ratio].after.top1:
            sys.exit(f"SNP is not ahead of L2 at {ratio:.0%}")


if __name__ == "__main__":
    main()
