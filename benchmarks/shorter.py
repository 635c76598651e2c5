"""DeiT-Tiny without training at seven sizes: widths, tokens and depth by one budget, and other ways.

    PRUNESCOPE_DATA=FOLDER python benchmarks/shorter.py --write [--only VARIANT ...] [--sizes GMACS ...]

Calibrated on photos outside the test set, on which every setting was chosen as well; tested once on all
650 photos of the validation subset. Takes about an hour on one core. Measurements are kept in a folder,
--keep, so that a run can be interrupted, or done in parts at the same time.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from results import ROOT, changed, deit_tiny, machine, parser, percent, report, speedup, table
from torch import Tensor

from analysis.measure import Runner, bench, change_of_counts, cost, evaluate, paired_change, torch_runner
from analysis.models import architecture
from analysis.vit import Architecture, Block, BlockWidths, ViT
from pruning.budget import Budget, kl_divergence
from pruning.cut import Ratios, with_architecture, with_merges
from pruning.export import onnx_runner
from pruning.jobs import Job, Prepared, make_smaller, prepare
from pruning.tracked import tracked

SIZES = (1.02, 0.92, 0.82, 0.71, 0.58, 0.45, 0.35)
TIMED = (0.92, 0.71, 0.58)
BATCHES = (1, 8)
GPU_BATCHES = (1, 64, 512)
VARIANTS = {
    "everything": "Spectral, the default budget",
    "widths": "Spectral, widths alone",
    "tokens": "Tokens alone",
    "tome": "Tokens alone, ToMe as published",
    "vbp": "VBP (MLP alone)",
    "corp": "CORP (MLP and query-key)",
}


class PublishedBlock(Block):
    """A block that merges as ToMe was published: by the cosine of the keys' mean over heads, in its order."""

    def attend(
        self, x: Tensor, sizes: Any = None, count: int | None = None, places: list[Tensor] | None = None
    ) -> tuple[Tensor, Any]:
        """The first half: attention, and merging behind it."""
        if self.attn is None or self.merge is None:
            return super().attend(x, sizes, count, places)
        _, k, _ = self.attn.split_heads(self.attn.qkv(self.norm1(x)))
        added, _ = self.attn(self.norm1(x), sizes)
        return published(x + self.ls1(added), sizes, k, self.merge.prefix, self.merge.count)


class CutBlock(Block):
    """A block that drops its last tokens in place of merging: what a merge that costs nothing would take."""

    def attend(
        self, x: Tensor, sizes: Any = None, count: int | None = None, places: list[Tensor] | None = None
    ) -> tuple[Tensor, Any]:
        """The first half: attention alone, as in the dense model."""
        if self.attn is not None:
            added, _ = self.attn(self.norm1(x), None, count)
            x = x[:, :count] + self.ls1(added)
        left = x.shape[1] - (self.merge.count if self.merge is not None else 0)
        return x[:, :left], None


def published(x: Tensor, sizes: Tensor | None, k: Tensor, prefix: int, count: int) -> tuple[Tensor, Tensor]:
    """Bipartite soft matching (Bolya et al. 2023): unmerged tokens of one half first, then the other half."""
    sizes = torch.ones_like(x[..., 0]) if sizes is None else sizes
    metric = F.normalize(k.mean(dim=1)[:, prefix:], dim=-1)
    best, onto = (metric[:, 1::2] @ metric[:, ::2].transpose(-2, -1)).max(dim=-1)
    order = best.argsort(dim=-1, descending=True)
    weighted = torch.cat([x * sizes[..., None], sizes[..., None]], dim=-1)
    patches = weighted[:, prefix:]
    odd = patches[:, 1::2].gather(1, order[..., None].expand(-1, -1, weighted.shape[-1]))
    into = onto.gather(1, order[:, :count])[..., None].expand(-1, -1, weighted.shape[-1])
    even = patches[:, ::2].scatter_add(1, into, odd[:, :count])
    merged = torch.cat([weighted[:, :prefix], odd[:, count:], even], dim=1)
    return merged[..., :-1] / merged[..., -1:], merged[..., -1]


class Bench:
    """The model and its photos, and how each variant meets a size."""

    def __init__(self) -> None:
        self.run: Prepared = prepare(deit_tiny())
        self.photos = list(tracked(self.run.test, self.run.dense, "", lambda what, share: None))
        self.dense: ViT = self.run.dense.model
        self.full = evaluate(self.dense, self.photos)
        with torch.no_grad():
            self.logits = [self.dense(images) for images, _ in self.photos]

    def measure(self, variant: str, gmacs: float) -> dict[str, Any] | None:
        """Accuracy, divergence and agreement on the test photos; None where a variant cannot be so small."""
        began = time.process_time()
        small = self._made(variant, gmacs)
        if small is None:
            return None
        seconds = time.process_time() - began
        got = evaluate(small, self.photos)
        change = paired_change(self.full, got)
        kl, same = 0.0, 0
        with torch.no_grad():
            for (images, _), dense in zip(self.photos, self.logits, strict=True):
                logits = small(images)
                kl += float(kl_divergence(dense, logits).sum())
                same += int((logits.argmax(dim=1) == dense.argmax(dim=1)).sum())
        return {
            "top1": got.top1,
            "lost": change.lost,
            "gained": change.gained,
            "images": change.images,
            "kl": kl / change.images,
            "agreement": same / change.images,
            "gmacs": cost(small.arch).gmacs,
            "seconds": seconds,
            "blocks": [[w.heads, w.qk, w.v, w.mlp, w.merge] for w in small.arch.blocks],
        }

    def _made(self, variant: str, gmacs: float) -> ViT | None:
        makers: dict[str, Callable[[float], ViT | None]] = {
            "everything": lambda size: self._budget("spectral", Budget(gmacs=size)),
            "widths": lambda size: self._budget("spectral", Budget(gmacs=size, tokens=False, depth=False)),
            "tokens": lambda size: self._budget("tokens", Budget(gmacs=size)),
            "tome": self._tome,
            "vbp": lambda size: self._ratio("vbp", size, lambda share: Ratios(mlp=share)),
            "corp": lambda size: self._ratio("corp", size, lambda share: Ratios(mlp=share, qk=share)),
        }
        try:
            return makers[variant](gmacs)
        except ValueError as error:
            print(f"{variant} at {gmacs}: {error}", file=sys.stderr)
            return None

    def _budget(self, method: str, budget: Budget) -> ViT:
        job = replace(deit_tiny(), method=method, budget=budget, align=8, skip_unread=True)
        return self._smaller(job)

    def _tome(self, gmacs: float) -> ViT | None:
        """The same number in every block but the last, the least that meets the size."""
        lean = replace(self.dense.arch, skip_unread=True)
        for count in range(1, lean.num_tokens):
            arch = with_merges(lean, count)
            if cost(arch).gmacs <= gmacs:
                small = with_architecture(self.dense, arch)
                for block in small.blocks:
                    block.__class__ = PublishedBlock
                return small
        return None

    def _ratio(self, method: str, gmacs: float, ratios: Callable[[float], Ratios]) -> ViT | None:
        """One ratio for all, the least that meets the size with unread tokens left out."""
        job = replace(deit_tiny(), method=method, skip_unread=True)
        for step in range(1, 97):
            asked = replace(job, ratios=ratios(step / 100))
            if cost(asked.target(self.dense.arch)).gmacs <= gmacs:
                return self._smaller(asked)
        return None

    def _smaller(self, job: Job) -> ViT:
        return make_smaller(replace(self.run, job=job)).model


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    arguments.add_argument("--sizes", nargs="+", type=float, default=list(SIZES))
    arguments.add_argument("--latency", action="store_true", help="time the default budgets found, instead")
    arguments.add_argument("--gpu", action="store_true", help="time them on a GPU in half precision")
    arguments.add_argument("--keep", type=Path, default=ROOT / "build" / "shorter")
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    args.keep.mkdir(parents=True, exist_ok=True)
    if args.latency:
        return (write_gpu_latency if args.gpu else write_latency)(args.keep, args.write)
    made = None
    for size in args.sizes:
        for variant in args.only:
            file = args.keep / f"{variant}-{size:g}.json"
            if not file.exists():
                made = made or Bench()
                cell = made.measure(variant, size)
                found = {
                    "cell": cell,
                    "taken": date.today().isoformat(),
                    "top1": made.full.top1,
                    "machine": machine(),
                }
                found |= {"low": made.full.top1_low, "high": made.full.top1_high}
                file.write_text(json.dumps(found))
                print(variant, size, cell, file=sys.stderr, flush=True)
    return write(args.keep, args.only, args.sizes, args.write)


def write_latency(keep: Path, save: bool) -> None:
    """Time the models of the default budgets against the dense one, in turns; weights play no part in it."""
    dense, rows = _dense(), []
    for size, small in _found(keep, dense.arch):
        for name, runner, one in (
            ("PyTorch", torch_runner, small),
            ("PyTorch, merging for nothing", torch_runner, _cut(small)),
            ("PyTorch, compiled", compiled_runner, small),
            ("PyTorch, compiled, merging for nothing", compiled_runner, _cut(small)),
            ("ONNX Runtime", onnx_runner, small),
        ):
            torch._dynamo.reset()  # it compiles only so many models before it gives up
            rows.append(_timed(size, name, runner(one), runner(dense), (small, dense), BATCHES))
    body = (
        "Speed-up of DeiT-Tiny pruned by the default budget against dense, both timed in turns, with its "
        "95 % interval, and what part of the ratio of MACs it is. Merged tokens, widths and depth as found "
        'for each size in the table before. "Merging for nothing" drops as many tokens in the same blocks '
        "without choosing or weighing any: no way of merging can be faster. "
        '"Compiled" means that torch.compile has compiled both models, for each batch size.\n\n'
    )
    head = ["GMACs", "MACs ratio", "", *(f"batch {batch}" for batch in BATCHES)]
    report("Latency of the default budgets, DeiT-Tiny", body + table(head, rows), save)


def compiled_runner(model: ViT) -> Runner:
    """A runner for what `torch.compile` makes of the model, for each batch size anew before it is timed."""
    compiled = copy.deepcopy(model)
    compiled.compile(dynamic=False)
    return torch_runner(compiled)


def write_gpu_latency(keep: Path, save: bool) -> None:
    """Time the same models on a GPU, as PyTorch runs them and as replayed CUDA graphs."""
    dense, rows = _dense(), []
    for size, small in _found(keep, dense.arch):
        for name, runner in (("PyTorch", gpu_runner), ("CUDA graph", graph_runner)):
            rows.append(_timed(size, name, runner(small), runner(dense), (small, dense), GPU_BATCHES))
    body = (
        f"On {torch.cuda.get_device_name()}, half precision, otherwise as in the table before. A small batch "
        "waits for the launches of kernels, of which merging adds some; a CUDA graph makes all in one go.\n\n"
    )
    head = ["GMACs", "MACs ratio", "", *(f"batch {batch}" for batch in GPU_BATCHES)]
    report("Latency of the default budgets on a GPU, DeiT-Tiny", body + table(head, rows), save)


def gpu_runner(model: ViT) -> Runner:
    """A runner for a copy of the model in half precision on the GPU; moving the images there is not timed."""
    run, moved = torch_runner(copy.deepcopy(model).half().cuda()), _Moved()

    def wait(images: Tensor) -> object:
        done = run(moved(images))
        torch.cuda.synchronize()
        return done

    return wait


def graph_runner(model: ViT) -> Runner:
    """The same with all kernels of a batch size recorded in a CUDA graph before the first is timed."""
    run, moved = torch_runner(copy.deepcopy(model).half().cuda()), _Moved()
    graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def wait(images: Tensor) -> object:
        on = moved(images)
        if len(images) not in graphs:
            aside = torch.cuda.Stream()
            with torch.cuda.stream(aside):
                for _ in range(3):  # what a first pass sets up cannot be recorded
                    run(on)
            torch.cuda.synchronize()
            graphs[len(images)] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graphs[len(images)]):
                run(on)
        graphs[len(images)].replay()
        torch.cuda.synchronize()
        return None

    return wait


class _Moved:
    """Images on the GPU, where they stay for as long as the same are asked for."""

    def __init__(self) -> None:
        self.given: Tensor | None = None
        self.there: dict[int, Tensor] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """The images in half precision."""
        if images is not self.given:
            self.given, self.there[len(images)] = images, images.half().cuda()
        return self.there[len(images)]


def _dense() -> ViT:
    """DeiT-Tiny; weights play no part in its latency."""
    return ViT(architecture(deit_tiny().model)).eval()


def _found(keep: Path, arch: Architecture) -> Iterator[tuple[float, ViT]]:
    """The models of the default budgets that were found, by size."""
    for size in TIMED:
        file = keep / f"everything-{size:g}.json"
        if file.exists():
            cell = json.loads(file.read_text())["cell"]
            blocks = tuple(BlockWidths(*widths) for widths in cell["blocks"])
            small = ViT(replace(arch, blocks=blocks, skip_unread=True)).eval()
            small.init_weights()
            yield size, small


def _timed(
    size: float, name: str, a: Runner, b: Runner, models: tuple[ViT, ViT], batches: Sequence[int]
) -> list[str]:
    """A row: how much faster the first is than the second, and as a part of the ratio of their MACs."""
    arch = models[1].arch
    ratio = cost(arch).macs / cost(models[0].arch).macs
    timings = bench(a, b, (arch.in_channels, *arch.image_size), batches)
    cells = [f"{speedup(timings[n])}, {timings[n].speedup / ratio:.2f}" for n in batches]
    print(size, name, *cells, file=sys.stderr, flush=True)
    return [f"{size:g}", f"{ratio:.2f}", name, *cells]


def _cut(model: ViT) -> ViT:
    """A copy that drops tokens where the model merges."""
    made = copy.deepcopy(model)
    for block in made.blocks:
        block.__class__ = CutBlock
        if block.attn is not None:
            block.attn.reads = False
    return made


def write(keep: Path, variants: list[str], sizes: list[float], save: bool) -> None:
    """Report a row for each variant and a column for each size."""
    found = {
        (variant, size): json.loads((keep / f"{variant}-{size:g}.json").read_text())
        for variant in variants
        for size in sizes
        if (keep / f"{variant}-{size:g}.json").exists()
    }
    dense = next(iter(found.values()))
    rows = []
    for variant in variants:
        cells = [found[variant, size]["cell"] if (variant, size) in found else None for size in sizes]
        rows.append([VARIANTS[variant], *(shown(cell, dense["top1"]) for cell in cells)])
    days = " to ".join(sorted({one["taken"] for one in found.values()}))
    where: dict[str, dict[str, None]] = {}
    for (variant, _), one in found.items():
        where.setdefault(one["machine"], {})[VARIANTS[variant]] = None  # in order, each once
    machines = "; ".join(f"{name}: {', '.join(variants)}" for name, variants in where.items())
    body = (
        "Top-1 of DeiT-Tiny (LayerNorms rounded) without training, with the paired change against the dense "
        "model, its 95 % interval and the p-value of the same test (McNemar); the share of the dense model's "
        "top-1 that is left; the mean KL divergence from the dense model's predictions and the share of "
        "photos on which both predict the same; and the processor seconds of pruning, with the survey where "
        "none was kept. "
        f"On 650 photos, an easy subset of the ImageNet-1k validation set. Dense: "
        f"{percent(dense['top1'], dense['low'], dense['high'])} at 1.25 GMACs. "
        f"Measured {days} on {machines}. "
        "Calibration: photos of ten classes, none of them a test photo. How and where tokens merge, and "
        "what budgets weigh, was chosen on calibration photos by KL divergence; the test photos were looked "
        "at for this table only. All but the dense model leave the last block's unread tokens out. ToMe as "
        "published merges the same number in every block but the last. VBP and CORP remove one fraction in "
        "every block, the least that meets the size, from the MLP, and from the MLP and the query-key "
        "pairs; a dash is a size that this cannot meet.\n\n"
    )
    columns = [f"{size:g} GMACs" for size in sizes]
    report("Zero-shot, widths, tokens and depth, DeiT-Tiny", body + table(["", *columns], rows), save)


def shown(cell: dict[str, Any] | None, dense: float) -> str:
    """One cell of the table."""
    if cell is None:
        return "–"
    change = change_of_counts(int(cell["lost"]), int(cell["gained"]), int(cell["images"]))
    return (
        f"{changed(cell['top1'], change)}, {100 * cell['top1'] / dense:.1f} % of dense; KL {cell['kl']:.3f}, "
        f"{100 * cell['agreement']:.1f} % alike; {cell['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
