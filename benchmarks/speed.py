"""Time the published presets against their dense models: as published, padded, and rounded to multiples of 8.

    python benchmarks/speed.py --write

In PyTorch and ONNX Runtime, at batch 1 and 8, alternating with the dense model. Weights are random: speed
depends on shapes alone. Takes about ten minutes on an idle machine with two cores. Exits with code 1 if a
rounded preset at batch 8 has a smaller speed-up than the paper reports for its CPU.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from results import parser, report, speedup, table
from torch import Tensor

from analysis.measure import Runner, Timing, bench, cost, torch_runner
from analysis.models import architecture
from analysis.vit import Architecture, Attention, ViT
from pruning.cut import preset_ratios, shrink
from pruning.export import onnx_runner

# dense model, and the speed-up on a CPU that the SNP paper reports (Xeon 4210R, PyTorch)
PRESETS = {
    "snp-deit-tiny": ("deit_tiny_patch16_224", 1.38),
    "snp-deit-small": ("deit_small_patch16_224", 1.38),
    "snp-deit-small-small": ("deit_small_patch16_224", 1.60),
    "snp-deit-base": ("deit_base_patch16_224", 1.89),
}
BATCHES = (1, 8)
ALIGN = 8
MOST_ROUNDS, LEAST_ROUNDS = 30, 8  # before the first verdict, for which eight are the least


class Unpadded(Attention):
    """Fused attention without padding, as published; the project pads queries, keys and values."""

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, sizes: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=self.scale)


def unpadded(model: ViT) -> ViT:
    """A copy of the model that computes the same without padding.

    Raises:
        ValueError: it computes something else.
    """
    plain = copy.deepcopy(model)
    for block in plain.blocks:
        if block.attn is not None:
            block.attn.__class__ = Unpadded
    images = torch.randn(1, 3, *model.arch.image_size)
    with torch.inference_mode():
        if not torch.allclose(plain(images), model(images), atol=1e-4):
            raise ValueError("attention must give the same logits with and without padding")
    return plain


def random_vit(arch: Architecture) -> ViT:
    torch.manual_seed(0)
    model = ViT(arch).eval()
    model.init_weights()
    return model


def padded_runner(model: ViT) -> Runner:
    return torch_runner(model)


def unpadded_runner(model: ViT) -> Runner:
    return torch_runner(unpadded(model))


@dataclass(frozen=True)
class Form:
    """One way to run a pruned model."""

    backend: str
    title: str
    align: int
    runner: Callable[[ViT], Runner]


FORMS = (
    Form("PyTorch", "as published", 1, unpadded_runner),
    Form("PyTorch", "padded", 1, padded_runner),
    Form("PyTorch", "padded, rounded", ALIGN, padded_runner),
    Form("ONNX Runtime", "as published", 1, onnx_runner),
    Form("ONNX Runtime", "rounded", ALIGN, onnx_runner),
)


@dataclass(frozen=True)
class Figure:
    """One preset in one form at one batch size: timing against the dense model, and the ratio of MACs."""

    preset: str
    form: Form
    batch: int
    timing: Timing
    macs: float

    @property
    def too_slow(self) -> bool:
        """Whether this is a rounded preset at the largest batch with a speed-up below the paper's."""
        judged = self.form.align == ALIGN and self.batch == max(BATCHES)
        return judged and self.timing.speedup < PRESETS[self.preset][1]

    def row(self) -> list[str]:
        timing = self.timing
        shown = [f"{t.p50:.1f} ({t.p10:.1f} to {t.p90:.1f})" for t in (timing.b_ms, timing.a_ms)]
        return [
            self.preset,
            self.form.backend,
            self.form.title,
            str(self.batch),
            *shown,
            speedup(timing),
            f"{self.macs:.2f}",
            f"{timing.speedup / self.macs:.2f}",
            f"{PRESETS[self.preset][1]:.2f}",
            timing.verdict,
            str(timing.rounds),
        ]


HEAD = [
    "Preset",
    "Backend",
    "Form",
    "Batch",
    "Dense ms (p10 to p90)",
    "Pruned ms (p10 to p90)",
    "Speed-up (95 % interval)",
    "MACs ratio",
    "Speed-up / MACs ratio",
    "Paper, CPU",
    "Verdict of pruned",
    "Rounds",
]


@cache
def dense_runner(model: str, backend: str) -> Runner:
    dense = random_vit(architecture(model))
    return torch_runner(dense) if backend == "PyTorch" else onnx_runner(dense)


def affordable(pair: tuple[Runner, Runner], images: Tensor, seconds: float) -> int:
    """Number of rounds that fit into `seconds`, estimated from one pass of each runner after a warm-up."""
    for run in pair:
        run(images)
    began = time.perf_counter()
    for run in pair:
        run(images)
    return max(LEAST_ROUNDS, min(MOST_ROUNDS, int(seconds / (time.perf_counter() - began))))


def measure(preset: str, form: Form, seconds: float) -> list[Figure]:
    """Time one preset in one form at both batch sizes."""
    name = PRESETS[preset][0]
    dense = architecture(name)
    pruned = shrink(dense, preset_ratios(preset, dense), form.align)
    pair = form.runner(random_vit(pruned)), dense_runner(name, form.backend)
    shape = (dense.in_channels, *dense.image_size)
    figures = []
    for batch in BATCHES:
        rounds = affordable(pair, torch.randn(batch, *shape), seconds)
        timing = bench(*pair, shape, [batch], rounds=rounds, warmup=1)[batch]
        figures.append(Figure(preset, form, batch, timing, cost(dense).macs / cost(pruned).macs))
        words = f"{timing.speedup:.2f} of {figures[-1].macs:.2f}, {timing.rounds} rounds"
        print(preset, form.backend, form.title, f"batch {batch}: {words}", file=sys.stderr, flush=True)
    return figures


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    arguments.add_argument(
        "--seconds",
        type=float,
        default=9.0,
        help="time for the first rounds of a pair of models at one batch size; up to eight times as long is "
        "spent while the verdict is open",
    )
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    figures = [
        figure for preset in args.presets for form in FORMS for figure in measure(preset, form, args.seconds)
    ]
    body = (
        "SNP's published presets against their dense models, timed alternately, random weights (speed "
        f"depends on shapes alone), {args.threads} threads in both backends. Times are medians of one "
        "forward pass of a batch; the speed-up is the median over rounds of dense over pruned time, with "
        "its 95 % interval, and the MACs ratio is dense over pruned. As published: queries and "
        "keys have one width, values another. Padded: zero channels give all three one width for the fused "
        "kernel. "
        f"Rounded: widths are rounded to the nearest multiple of {ALIGN}, so the MACs differ. ONNX Runtime "
        "has no fused kernel here, so padding does not apply. The paper's figures are for PyTorch on a Xeon "
        "4210R.\n\n"
    )
    report(
        "Speed of the published presets", body + table(HEAD, [figure.row() for figure in figures]), args.write
    )
    slow = [figure for figure in figures if figure.too_slow]
    if slow:
        found = (f"{f.preset} in {f.form.backend} ({f.timing.speedup:.2f})" for f in slow)
        sys.exit(f"below the paper's speed-up at batch {max(BATCHES)}: {', '.join(found)}")


if __name__ == "__main__":
    main()
