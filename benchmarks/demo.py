"""Measure the demo: one pruning run, its accuracy and latency, the cost of scoring, the speed of a slider.

python benchmarks/demo.py --write
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import parser, percent, report, speedup, table

from analysis.measure import Timing, bench, cost, paired_change, torch_runner
from analysis.models import architecture, load
from analysis.vit import Architecture, ViT
from pruning.criteria import SnpOptions, snp
from pruning.cut import Ratios, preset_ratios, shrink
from pruning.jobs import Job, PruneResult, prune
from pruning.wording import paired_points

RATIOS = Ratios(qk=0.5, v=0.25, mlp=0.25)


def pruning_table(outcome: PruneResult) -> str:
    figures = outcome.report()
    change = paired_points(paired_change(outcome.before, outcome.after))
    rows = []
    for name, when, changed in (("dense", "before", ""), ("pruned", "after", change)):
        top1 = percent(*(figures[f"{key}_{when}"] for key in ("top1", "top1_low", "top1_high")))
        params, gmacs = figures[f"params_{when}"], figures[f"gmacs_{when}"]
        rows.append([name, f"{params:,}", f"{gmacs:.4f}", top1, changed])
    words = (
        f"SNP removes 50 % of the query-key pairs and 25 % of the value channels and MLP neurons. Top-1 "
        f"before fine-tuning, on all {figures['images']:,} test scenes, with the paired change and the "
        "p-value of the same test (McNemar). Scoring, cutting and both evaluations "
        f"took {figures['seconds']:.0f} s.\n\n"
    )
    return words + table(["", "Parameters", "GMACs", "Top-1 (95 % interval)", "Change"], rows)


def latency_table(timings: dict[int, Timing]) -> str:
    rows = []
    for batch, timing in timings.items():
        shown = [f"{t.p50:.2f} ({t.p10:.2f} to {t.p90:.2f})" for t in (timing.b_ms, timing.a_ms)]
        rows.append([str(batch), *shown, speedup(timing), timing.verdict, str(timing.rounds)])
    times = ["Dense ms (p10 to p90)", "Pruned ms (p10 to p90)"]
    head = ["Batch", *times, "Speed-up (95 % interval)", "Verdict of pruned", "Rounds"]
    words = (
        "The pruned model against the dense one, timed alternately. The speed-up is the median over rounds "
        "of dense over pruned time.\n\n"
    )
    return words + table(head, rows)


def scoring_cost(dense: Architecture) -> str:
    """Processor seconds of SNP scoring relative to a plain forward pass of the same 64 images."""
    torch.manual_seed(0)
    model = ViT(dense).eval()
    model.init_weights()
    images = torch.randn(64, 3, *dense.image_size)
    ratios = []
    for _ in range(5):
        began = time.process_time()
        with torch.inference_mode():
            for batch in images.split(32):
                model(batch)
        forward = time.process_time() - began
        began = time.process_time()
        snp(model, [(batch, torch.zeros(32)) for batch in images.split(32)], SnpOptions())
        ratios.append((time.process_time() - began) / forward)
    median, low, high = statistics.median(ratios), min(ratios), max(ratios)
    return (
        f"Scoring DeiT-Tiny by SNP on 64 images costs {median:.2f} times a plain forward pass of the same "
        f"images (processor time, median of 5 repetitions, {low:.2f} to {high:.2f})."
    )


def slider_speed(dense: Architecture) -> str:
    ratios = preset_ratios("snp-deit-tiny", dense)
    spent = []
    for _ in range(200):
        began = time.perf_counter()
        cost(shrink(dense, ratios))
        spent.append((time.perf_counter() - began) * 1000)
    median = statistics.median(spent)
    return f"Estimating the cost of DeiT-Tiny for new ratios takes {median:.2f} ms (median of 200)."


def main() -> None:
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    outcome = prune(Job("demo", "demo", ratios=RATIOS))
    report("The demo, pruned", pruning_table(outcome), args.write)
    timings = bench(
        torch_runner(outcome.pruned.model), torch_runner(load("demo").model), (3, 64, 64), (1, 8), rounds=60
    )
    report("The demo, latency", latency_table(timings), args.write)
    deit = architecture("deit_tiny_patch16_224")
    report("Cost of scoring and of a slider", f"{scoring_cost(deit)}\n\n{slider_speed(deit)}", args.write)


if __name__ == "__main__":
    main()
