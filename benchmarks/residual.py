"""Narrowing the residual stream of DeiT-Tiny: by rotation, by choosing channels, or spectral pruning instead.

    PRUNESCOPE_DATA=FOLDER python benchmarks/residual.py --write

First the embedding width alone, reduced by rotation and by SNP's scores, next to the spectral method at
the same GMACs or fewer. Then a much smaller network, made by rotation and spectral pruning together.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import changed, deit_tiny, parser, percent, report, table

from analysis.data import batches
from analysis.measure import Batches, Evaluation, cost, evaluate, paired_change
from analysis.models import load
from analysis.vit import Architecture, ViT
from pruning.cut import Ratios, shrink
from pruning.jobs import Job, Prepared, image_sets, make_smaller
from pruning.projection import SpectralOptions, rotate, spectral
from pruning.tracked import BATCH

SHARES = (0.1, 0.2, 0.3)
SMALL, BEFORE = 0.58, 0.1  # GMACs, and the fraction of the embedding removed before spectral pruning
# query-key, value and MLP fractions removed, in the proportions of the hand-set sizes of zero_shot.py
MILD, STRONG = (0.75, 0.375, 0.35), (0.75, 0.5, 0.5)


def at_gmacs(arch: Architecture, gmacs: float, proportion: tuple[float, float, float]) -> Architecture:
    """The largest query-key, value and MLP widths in a fixed proportion that the GMACs allow."""
    steps = (tuple(step / 1000 * part for part in proportion) for step in range(1300))
    narrow = (shrink(arch, Ratios(qk=qk, v=v, mlp=mlp)) for qk, v, mlp in steps)
    return next(target for target in narrow if cost(target).gmacs <= gmacs)


class Bench:
    """The dense model with its calibration and test images."""

    def __init__(self, job: Job, images: int) -> None:
        self.job, self.dense = job, load(job.model, Path(str(job.weights)))
        self.calibration, self.test = image_sets(job, self.dense)
        self.chosen = self.calibration.sample(images, job.seed)
        self.options = SpectralOptions(images=images)

    def rotated(self, share: float) -> ViT:
        width = shrink(self.dense.model.arch, Ratios(embed=share)).embed_dim
        return rotate(self.dense.model, self._images(), width, images=self.options.images)

    def snp(self, share: float) -> ViT:
        job = replace(self.job, method="snp", ratios=Ratios(embed=share))
        return make_smaller(Prepared(job, self.dense, self.calibration, self.test)).model

    def spectral(self, model: ViT, gmacs: float, proportion: tuple[float, float, float]) -> ViT:
        return spectral(model, self._images(), at_gmacs(model.arch, gmacs, proportion), self.options)

    def show(self, model: ViT, name: str) -> str:
        """Accuracy on the test images as text; prints it with the GMACs."""
        found = self._evaluated(model)
        if model is self.dense.model:
            words = percent(found.top1, found.top1_low, found.top1_high)
        else:
            words = changed(found.top1, paired_change(self.full, found))
        print(f"{name}, {cost(model.arch).gmacs:.2f} GMACs: {words}", file=sys.stderr, flush=True)
        return words

    @cached_property
    def full(self) -> Evaluation:
        """The dense model on the test images."""
        return self._evaluated(self.dense.model)

    def _evaluated(self, model: ViT) -> Evaluation:
        return evaluate(model, batches(self.test, self.dense.preprocess, BATCH))

    def _images(self) -> Batches:
        return batches(self.chosen, self.dense.preprocess, BATCH)


def narrowed(bench: Bench, share: float) -> list[str]:
    """One row: a narrower embedding by rotation and by SNP, and spectral pruning at no more GMACs."""
    began = time.perf_counter()
    model = bench.rotated(share)
    seconds, gmacs = time.perf_counter() - began, cost(model.arch).gmacs
    row = [f"{model.arch.embed_dim} ({share:.0%})".replace("%", " %"), f"{gmacs:.2f}"]
    row.append(f"{bench.show(model, f'rotation {share}')}, {seconds:.0f} s")
    row.append(bench.show(bench.snp(share), f"snp {share}"))
    row.append(bench.show(bench.spectral(bench.dense.model, gmacs, MILD), "spectral"))
    return row


def together(bench: Bench) -> list[list[str]]:
    """One row for spectral pruning alone and one for spectral pruning after rotation, both at `SMALL`."""
    rows = []
    for share in (0.0, BEFORE):
        start = bench.rotated(share) if share else bench.dense.model
        model = bench.spectral(start, SMALL, STRONG)
        block, embed = model.arch.blocks[0], model.arch.embed_dim
        widths = [str(width) for width in (embed, block.qk, block.v, block.mlp)]
        rows.append([*widths, f"{cost(model.arch).gmacs:.2f}", bench.show(model, f"spectral, E {embed}")])
    return rows


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=256, help="calibration images for the projections")
    arguments.add_argument("--limit", type=int, help="number of test images (default: all)")
    arguments.add_argument("--part", choices=["alone", "together", "both"], default="both")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    bench = Bench(replace(deit_tiny(), limit=args.limit), args.images)
    what = (
        "Top-1 of DeiT-Tiny without training, with the paired change against the dense model, its 95 % "
        f"interval and the p-value of the same test (McNemar), on {len(bench.test)} photos, an easy subset "
        f"of the ImageNet-1k validation set. Dense: {bench.show(bench.dense.model, 'dense')} at "
        f"{cost(bench.dense.model.arch).gmacs:.2f} GMACs. Calibration: {args.images} photos of ten classes "
        "for rotation and spectral pruning, 64 for SNP, none of them a test image.\n\n"
    )
    if args.part != "together":
        head = ["E kept (removed)", "GMACs", "Rotation", "SNP", "Spectral, full E, same GMACs or fewer"]
        rows = [narrowed(bench, share) for share in SHARES]
        report("Residual stream alone, DeiT-Tiny", what + table(head, rows), args.write)
    if args.part != "alone":
        head = ["E", "Dqk", "Dv", "MLP", "GMACs", "Top-1: rotation where E is below 192, then spectral"]
        report("Residual stream with the rest, DeiT-Tiny", what + table(head, together(bench)), args.write)


if __name__ == "__main__":
    main()
