"""Which head ranking GOHSP should use: top-1 without the lowest-ranked heads and without training.

    python benchmarks/gohsp_evidence.py demo --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/gohsp_evidence.py deit-tiny --write

Compares every similarity in both directions with random choices, Taylor head masks and captum's ablation, on
the demo or on DeiT-Tiny: for several numbers of heads, ranked per block and over all blocks at once.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, percent, report, table
from torch import Tensor

from analysis.data import batches
from analysis.heads import SIMILARITIES, ablation, similarities, taylor
from analysis.measure import Batches, evaluate, wilson
from analysis.models import LoadedModel, load
from analysis.vit import ViT
from pruning.criteria import GraphOptions, counts_together, rank_heads
from pruning.cut import Plan, Ratios, cut, heads_only, select, shrink
from pruning.jobs import Job, image_sets

DRAWS = 3
CALIBRATION = 64
Ranking = tuple[Tensor, ...]
Case = tuple[str, int]  # scope, heads removed per block on average


def rankings(model: ViT, images: Batches) -> dict[str, list[Ranking]]:
    """Scores of all heads under every ranking; several draws for the random one."""
    found: dict[str, list[Ranking]] = {}
    for kind in SIMILARITIES:
        for teleport in (0.0, GraphOptions().teleport):
            central = rank_heads(model, images, GraphOptions(kind, "central", teleport))
            if teleport or kind == "predictability":  # symmetric ones rank the same for any teleport
                name = f"{kind}, teleport {teleport:g}" if kind == "predictability" else kind
                found[f"{name}, central"] = [central]
                found[f"{name}, distinct"] = [tuple(-scores for scores in central)]
        print(f"ranked by {kind}", file=sys.stderr, flush=True)
    found["Taylor head masks"] = [taylor(model, images)]
    found["captum ablation"] = [ablation(model, images)]
    print("ranked by loss", file=sys.stderr, flush=True)
    generator = torch.Generator().manual_seed(0)
    found["random"] = [
        tuple(torch.rand(widths.heads, generator=generator) for widths in model.arch.blocks)
        for _ in range(DRAWS)
    ]
    return found


def plan_without(model: ViT, ranking: Ranking, case: Case) -> Plan:
    """A plan that removes the lowest-ranked heads and leaves the others as they are."""
    scope, gone = case
    widths = model.arch.blocks
    kept = [block.heads - gone for block in widths]
    if scope == "global":
        kept = list(counts_together(ranking, sum(kept)))
    removed = tuple(1 - left / block.heads for left, block in zip(kept, widths, strict=True))
    target = shrink(model.arch, Ratios(heads=removed))
    return select(heads_only(model.arch, ranking), model.arch, target)


def measure(loaded: LoadedModel, job: Job, limit: int, gone: tuple[int, ...]) -> str:
    """Measure one model under all rankings; returns the text and table of its section."""
    calibration, test = image_sets(job, loaded)
    shown, tested = (
        list(batches(images, loaded.preprocess, 50))
        for images in (calibration.sample(CALIBRATION), test.sample(limit))
    )
    dense = evaluate(loaded.model, tested)
    cases = [(scope, count) for scope in ("block", "global") for count in gone]

    @cache  # rankings often agree on which heads go
    def top1(plan: Plan) -> float:
        return evaluate(cut(loaded.model, plan), tested).top1

    rows = []
    for name, draws in rankings(loaded.model, shown).items():
        tops = [[top1(plan_without(loaded.model, draw, case)) for draw in draws] for case in cases]
        rows.append([name, *(written(values, dense.images) for values in tops)])
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    heads, depth = loaded.model.arch.blocks[0].heads, loaded.model.arch.depth
    words = {"block": "{0} of {1} in every block", "global": "{2} of {3} in all"}
    head = [words[scope].format(n, heads, n * depth, heads * depth) for scope, n in cases]
    return (
        "Top-1 with 95 % Wilson intervals after removing whole heads and nothing else, without training or "
        f"compensation. Dense: {percent(dense.top1, dense.top1_low, dense.top1_high)} on {dense.images} "
        f"images. Rankings use {CALIBRATION} calibration images, none of them a test image; random: mean of "
        f"{DRAWS} draws. Cosine and CKA compare what the heads add to the residual stream; like attention "
        "they are symmetric: without teleport their Markov chain gives the plain degree. With "
        "predictability the chain and the plain sum of incoming weights disagree about "
        f"the first head to remove in {chain_against_degree(loaded.model, shown)}.\n\n"
        f"{table(['Ranking', *head], rows)}"
    )


def written(tops: list[float], images: int) -> str:
    """One accuracy with its interval, or the mean of several draws with their range."""
    mean = sum(tops) / len(tops)
    if len(tops) == 1:
        return percent(mean, *wilson(round(mean * images), images))
    return f"{mean:.1%} (draws {min(tops):.1%} to {max(tops):.1%})".replace("%", " %")


def chain_against_degree(model: ViT, images: Batches) -> str:
    """In how many blocks the chain and the sum of incoming weights differ in the first head to remove."""
    graphs = similarities(model, images, "predictability")
    chains = rank_heads(model, images, GraphOptions("predictability", "central", 0.0))
    differ = sum(
        int(graph.sum(dim=0).argmin()) != int(chain.argmin())
        for graph, chain in zip(graphs, chains, strict=True)
    )
    return f"{differ} of {len(graphs)} blocks"


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("model", choices=("demo", "deit-tiny"))
    arguments.add_argument("--limit", type=int, help="number of test images (500 scenes or 300 photos)")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    small = args.model == "demo"
    job = Job("demo", "demo") if small else deit_tiny()
    loaded = load(job.model, Path(job.weights) if job.weights else None)
    body = measure(loaded, job, args.limit or (500 if small else 300), (1, 2, 3) if small else (1,))
    report(f"GOHSP, ranking of heads, {'the demo' if small else 'DeiT-Tiny'}", body, args.write)


if __name__ == "__main__":
    main()
