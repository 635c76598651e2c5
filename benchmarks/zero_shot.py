"""Zero-shot accuracy of DeiT-Tiny at five hand-set sizes: spectral against choosing neurons.

    PRUNESCOPE_DATA=FOLDER python benchmarks/zero_shot.py --write

Query-key, value and MLP widths alike in every block. Calibrated on photos that are not tested on;
tested on all 650 photos of the validation subset.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, percent, report, table

from analysis.cost import cost
from analysis.evaluate import Evaluation, evaluate
from analysis.models import LoadedModel, load
from pruning.job import Job, image_sets, make_smaller, tracked
from pruning.methods import METHODS
from pruning.selection import Ratios

# query-key and value channels left of 64, MLP neurons removed
SIZES = ((32, 56, 0.10), (24, 48, 0.15), (16, 48, 0.25), (16, 40, 0.35), (16, 32, 0.50))


def quiet(what: str, share: float) -> None:
    """No progress: the rows tell."""


def measure(job: Job, dense: LoadedModel) -> tuple[float, Evaluation, float]:
    """GMACs, accuracy, and the seconds that pruning took."""
    calibration, test = image_sets(job, dense)
    began = time.perf_counter()
    small, _ = make_smaller(job, dense, calibration)
    seconds = time.perf_counter() - began
    return cost(small.arch).gmacs, evaluate(small, tracked(test, dense, "", quiet)), seconds


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--methods", nargs="+", default=["spectral", "snp", "l2", "random"])
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    job = deit_tiny()
    dense = load(job.model, Path(str(job.weights)))
    full = evaluate(dense.model, tracked(image_sets(job, dense)[1], dense, "", quiet))
    rows = []
    for qk, v, mlp in SIZES:
        ratios = Ratios(qk=1 - qk / 64, v=1 - v / 64, mlp=mlp)
        row = []
        for method in args.methods:
            gmacs, found, seconds = measure(replace(job, method=method, ratios=ratios), dense)
            shown = percent(found.top1, found.top1_low, found.top1_high)
            share = f"{found.top1 / full.top1:.1%}".replace("%", " %")
            row.append(f"{shown}, {share} of dense")
            print(f"{gmacs:.2f}", method, row[-1], f"{seconds:.0f} s", file=sys.stderr, flush=True)
        rows.append([f"{gmacs:.2f} ({qk}, {v}, {mlp:.0%})".replace("%", " %"), *row])
    body = (
        "Top-1 of DeiT-Tiny (LayerNorms rounded) without training, with 95 % Wilson intervals, and share of "
        f"the dense model's, on {full.images} photos, an easy subset of the ImageNet-1k "
        f"validation set. Dense: {percent(full.top1, full.top1_low, full.top1_high)} at "
        f"{cost(dense.model.arch).gmacs:.2f} GMACs. Calibration: 256 photos of ten classes for spectral, 64 "
        "for SNP, none of them tested on. Spectral's settings were compared on these very photos, at the "
        "smallest size, so its figure there is somewhat optimistic.\n\n"
    )
    head = ["GMACs (Dqk, Dv, MLP removed)", *(METHODS[method].title for method in args.methods)]
    report("Zero-shot, everything together, DeiT-Tiny", body + table(head, rows), args.write)


if __name__ == "__main__":
    main()
