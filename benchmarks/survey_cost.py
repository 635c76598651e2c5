"""What measuring the sensitivities of DeiT-Tiny costs, and what is lost by measuring few points of them.

    PRUNESCOPE_DATA=FOLDER python benchmarks/survey_cost.py --reference FILE --threads 1 --write

FILE is the `survey.json` of a survey that ran the network for every width, which no run does any more: of
release 0.1, say. Budgets of seven sizes are solved on both, and the choices compared by what the reference
predicts of them. With --made the models of some sizes are made, too, and their divergence from the dense
model is measured on calibration images that nothing was fitted on, every second of them steered towards
another class.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, report, table

from analysis.data import batches
from analysis.vit import Architecture, ViT
from pruning.budget import BUDGETED_STRUCTURES, Budget, Sensitivities
from pruning.jobs import Prepared, make_smaller, prepare, solve
from pruning.jobs.survey import read_survey
from pruning.projection import steered

SIZES = (1.02, 0.92, 0.82, 0.71, 0.58, 0.45, 0.35)  # GMACs
FITTED = 256  # calibration images, the first ones, that models are fitted on
HELD = 256  # behind these and behind those that sensitivities are measured on


def chosen(run: Prepared, gmacs: float, sensitivities: Sensitivities) -> Architecture:
    """The widths for a size."""
    job = replace(run.job, budget=Budget(gmacs=gmacs))
    return solve(job, run.dense.model.arch, sensitivities).arch


def apart(first: Architecture, second: Architecture) -> float:
    """Mean share of its dense width by which a structure differs between two choices, from 64, 64 and 768."""
    full = {"qk": 64, "v": 64, "mlp": 768}
    pairs = zip(first.blocks, second.blocks, strict=True)
    gaps = [abs(getattr(a, s) - getattr(b, s)) / full[s] for a, b in pairs for s in BUDGETED_STRUCTURES]
    return sum(gaps) / len(gaps)


@torch.no_grad()
def divergence(run: Prepared, small: ViT, count: int) -> float:
    """Mean divergence of a smaller model on images held aside."""
    dense, total, number = run.dense.model, 0.0, 0
    shuffled = run.calibration.sample(len(run.calibration), run.job.seed)
    held = shuffled.subset(range(len(shuffled) - count, len(shuffled)))
    for images, _ in steered(dense, batches(held, run.dense.preprocess, 32), 0.5):
        p, q = (model(images).double().log_softmax(dim=1) for model in (dense, small))
        total, number = total + float((p.exp() * (p - q)).sum()), number + len(images)
    return total / number


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--reference", type=Path, required=True, help="survey.json with every width run")
    arguments.add_argument("--method", default="spectral")
    arguments.add_argument("--survey", type=Path, help="survey.json to compare instead of measuring anew")
    arguments.add_argument("--made", type=float, nargs="*", default=[], help="sizes to make both models of")
    arguments.add_argument("--held", type=int, default=HELD)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    run = prepare(replace(deit_tiny(), method=args.method, align=8, skip_unread=True))
    began = time.process_time()
    now = read_survey(args.survey) if args.survey else run.method.survey(run.task, Budget.images)
    seconds = time.process_time() - began
    full = read_survey(args.reference).sensitivities
    widths = replace(now.sensitivities, tokens=(), halves=())  # which is all that the reference knows
    rows = []
    for gmacs in SIZES:
        archs = [chosen(run, gmacs, found) for found in (full, widths)]
        losses = [full.loss(arch) for arch in archs]
        made = ["", ""]
        if gmacs in args.made:
            small = [make_smaller(run, scores=now.scores, target=arch).model for arch in archs]
            made = [f"{divergence(run, model, args.held):.4f}" for model in small]
        change = f"{100 * (losses[1] / losses[0] - 1):+.1f} %"
        rows.append([f"{gmacs}", f"{losses[0]:.4f}", change, f"{100 * apart(*archs):.1f} %", *made])
        print(rows[-1], file=sys.stderr, flush=True)
    head = [
        "GMACs",
        "Predicted, all widths run",
        "Predicted, few run",
        "Widths apart",
        "Made, all",
        "Made, few",
    ]
    body = f"{seconds:.0f} processor seconds, {now.sensitivities.images} images.\n\n{table(head, rows)}"
    report(f"Cost of a survey, DeiT-Tiny, {args.method}", body, args.write)


if __name__ == "__main__":
    main()
