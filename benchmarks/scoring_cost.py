"""Time and peak memory of SNP scoring by number of images, next to a forward pass of the same images.

    python benchmarks/scoring_cost.py --write

Each figure is measured in a fresh process, because peak memory never falls. Weights and images are random.
Exits with code 1 if time grows faster than the number of images, or if memory grows with it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import parser, report, table
from torch import Tensor

from analysis.models import architecture
from analysis.vit import ViT
from pruning.criteria import SnpOptions, snp
from pruning.cut import Ratios, shrink
from pruning.projection import SpectralOptions, spectral

MODELS = ("tiny", "small", "base")
IMAGES = (16, 64, 256)
BATCH = 16  # at most the smallest number of images, so that every run holds the same number at a time
TASKS = ("forward", "snp")  # `spectral` is for spectral_cost.py
SPECTRAL = Ratios(qk=0.625, v=0.25, mlp=0.15)  # 0.92 GMACs of DeiT-Tiny
SLOWER, LARGER = 1.3, 1.1  # growth of processor time per image, and of peak memory, that counts as noise


@dataclass(frozen=True)
class Spent:
    """Wall and processor time in seconds, and the peak resident memory of the process in MB."""

    wall: float
    processor: float
    peak: float


def random_batches(count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images B C Y X, generated batch by batch so that only one batch is held at a time."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        yield torch.randn(size, 3, 224, 224, generator=generator), torch.zeros(size, dtype=torch.long)


def work(task: str, model: ViT, count: int) -> None:
    if task == "snp":
        snp(model, random_batches(count), SnpOptions(images=count))
        return
    if task == "spectral":
        target = shrink(model.arch, SPECTRAL)
        spectral(model, random_batches(count), target, SpectralOptions(images=count))
        return
    with torch.inference_mode():
        for images, _ in random_batches(count):
            model(images)


def spend(task: str, name: str, count: int) -> Spent:
    """Measure one task in this process."""
    torch.manual_seed(0)
    model = ViT(architecture(f"deit_{name}_patch16_224")).eval()
    model.init_weights()
    work(task, model, 1)  # warm up
    began, processor = time.perf_counter(), time.process_time()
    work(task, model, count)
    wall, processor = time.perf_counter() - began, time.process_time() - processor
    # kilobytes on Linux, bytes on macOS
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return Spent(wall, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def spend_apart(task: str, name: str, count: int, threads: int) -> Spent:
    """Measure one task in a fresh process. Its peak starts at this one's memory, which holds imports only."""
    command = [sys.executable, __file__, "--threads", str(threads), "--only", task, name, str(count)]
    # stdout only, so that errors of the process stay visible
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    spent = Spent(**json.loads(done.stdout))
    words = f"{spent.wall:.1f} s, processor {spent.processor:.1f} s, peak {spent.peak:.0f} MB"
    print(f"DeiT-{name.title()}, {count} images, {task}: {words}", file=sys.stderr, flush=True)
    return spent


def row(name: str, count: int, forward: Spent, scored: Spent) -> list[str]:
    return [
        f"DeiT-{name.title()}",
        str(count),
        *(f"{spent.wall:.1f}, {spent.processor:.1f}" for spent in (forward, scored)),
        f"{scored.processor / forward.processor:.2f}",
        f"{1000 * scored.processor / count:.0f}",
        f"{forward.peak:.0f}",
        f"{scored.peak:.0f}",
        f"{scored.peak - forward.peak:+.0f}",
    ]


HEAD = [
    "Model",
    "Images",
    "Forward: s, processor s",
    "Scoring: s, processor s",
    "Ratio (processor)",
    "Scoring, processor ms per image",
    "Forward, peak MB",
    "Scoring, peak MB",
    "Difference",
]


def complaints(name: str, scored: dict[int, Spent]) -> list[str]:
    """Cases in which scoring more images took more time per image, or more memory."""
    found = []
    for few, many in pairwise(sorted(scored)):
        slower = (scored[many].processor / many) / (scored[few].processor / few)
        larger = scored[many].peak / scored[few].peak
        if slower > SLOWER:
            found.append(
                f"DeiT-{name.title()}: {slower:.2f} times the time per image, {few} to {many} images"
            )
        if larger > LARGER:
            found.append(f"DeiT-{name.title()}: {larger:.2f} times the memory, {few} to {many} images")
    return found


def _arguments() -> argparse.Namespace:
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    arguments.add_argument("--images", type=int, nargs="+", default=list(IMAGES))
    arguments.add_argument(
        "--only", nargs=3, metavar=("TASK", "MODEL", "IMAGES"), help="measure in this process, print JSON"
    )
    return arguments.parse_args()


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.only:
        task, name, count = args.only
        print(json.dumps(asdict(spend(task, name, int(count)))))
        return
    rows, found = [], []
    for name in args.models:
        spent = {
            task: {count: spend_apart(task, name, count, args.threads) for count in args.images}
            for task in TASKS
        }
        rows += [row(name, count, *(spent[task][count] for task in TASKS)) for count in args.images]
        found += complaints(name, spent["snp"])
    verdict = "; ".join(found) or (
        f"Time grows linearly with the number of images (processor time per image grows by a factor of at "
        f"most {SLOWER} from one row to the next), and memory does not (peak: a factor of at most {LARGER})"
    )
    body = (
        f"SNP scoring against a plain forward pass of the same images, random weights and images, batches of "
        f"{BATCH}, {args.threads} threads. Each measurement runs in a fresh process, after one image to warm "
        "up. The peak is that of the whole process, including imports and weights. Reading images from disk "
        "is not included.\n\n" + table(HEAD, rows) + f"\n\n{verdict}."
    )
    report("Cost of scoring by images", body, args.write)
    if found:
        sys.exit(verdict)


if __name__ == "__main__":
    main()
