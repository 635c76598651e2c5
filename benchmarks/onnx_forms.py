"""Time the forms in which a model can be written as ONNX, in ONNX Runtime on the CPU.

    python benchmarks/onnx_forms.py --threads 1 --write

As torch's exporter writes the model (a batch of matrices, attention as plain products); with opset 23's
operator Attention; with the tokens of all images as rows of one matrix, as `export` writes them; and what
onnxslim and ONNX Runtime's own optimiser for transformers make of these. DeiT-Tiny, dense and with SNP's
published widths, at batch 1 and 8, all forms in turns. Weights are random: speed depends on shapes alone.
Takes about ten minutes on an idle machine, and names each form that is faster than what `export` writes.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import onnx
import torch
from results import parser, report, speedup, table
from speed import random_vit, unpadded

from analysis.measure import Timing, compare, take_turns
from analysis.models import architecture
from analysis.vit import ViT
from pruning.cut import preset_ratios, shrink
from pruning.export import export_onnx, onnx_runner

MODEL, PRESET = "deit_tiny_patch16_224", "snp-deit-tiny"
BATCHES = (1, 8)
OURS = "rows of one matrix (as exported)"
OPTIMISED = "ONNX Runtime's operators"  # no other tool reads them


def written(model: ViT, opset: int, path: Path) -> Path:
    """What torch's exporter writes, as it is."""
    program = torch.onnx.export(
        model,
        (torch.randn(2, model.arch.in_channels, *model.arch.image_size),),
        input_names=["images"],
        output_names=["logits"],
        opset_version=opset,
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(path)
    return path


def plain(model: ViT, path: Path) -> Path:
    with model.plain_attention():
        return written(model, 20, path)


def attention_operator(model: ViT, path: Path) -> Path:
    return written(unpadded(model), 23, path)


def slim(model: ViT, path: Path) -> Path:
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(export_onnx(model, path))), path)
    return path


def optimised(write: Callable[[ViT, Path], Path]) -> Callable[[ViT, Path], Path]:
    """What ONNX Runtime's optimiser for transformers makes of a form."""

    def optimise(model: ViT, path: Path) -> Path:
        from onnxruntime.transformers import optimizer

        heads = model.arch.blocks[0].heads
        fused = optimizer.optimize_model(
            str(write(model, path)), "vit", num_heads=heads, hidden_size=model.arch.embed_dim, opt_level=0
        )
        fused.save_model_to_file(str(path))
        return path

    return optimise


FORMS: dict[str, Callable[[ViT, Path], Path]] = {
    "batch of matrices": plain,
    "batch of matrices, opset 23's Attention": attention_operator,
    OURS: export_onnx,
    f"{OURS}, onnxslim": slim,
    f"batch of matrices, {OPTIMISED}": optimised(plain),
    f"{OURS}, {OPTIMISED}": optimised(export_onnx),
}


def measure(title: str, model: ViT, threads: int, rounds: int) -> list[tuple[str, str, int, Timing, int]]:
    """Each form of one model against the first one: title, form, batch size, timing, nodes."""
    with tempfile.TemporaryDirectory() as folder:
        files = [write(model, Path(folder) / f"{place}.onnx") for place, write in enumerate(FORMS.values())]
        nodes = [len(onnx.load(file).graph.node) for file in files]
        runners = [onnx_runner(file, threads) for file in files]
    shape = (model.arch.in_channels, *model.arch.image_size)
    found = []
    for batch, times in take_turns(runners, shape, BATCHES, rounds=rounds, looks=2).items():
        for form, own, count in zip(FORMS, times, nodes, strict=True):
            found.append((title, form, batch, compare(own, times[0], 2), count))
        print(title, batch, len(times[0]), "rounds", file=sys.stderr, flush=True)
    return found


def row(title: str, form: str, batch: int, timing: Timing, nodes: int) -> list[str]:
    own = timing.a_ms
    shown = f"{own.p50:.1f} ({own.p10:.1f} to {own.p90:.1f})"
    first = form == next(iter(FORMS))
    verdict = ["1", ""] if first else [speedup(timing), timing.verdict]
    return [title, str(batch), form, str(nodes), shown, *verdict]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=60)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)
    dense = architecture(MODEL)
    models = {"dense": dense, PRESET: shrink(dense, preset_ratios(PRESET, dense))}
    figures = [
        figure
        for title, arch in models.items()
        for figure in measure(title, random_vit(arch), args.threads, args.rounds)
    ]
    body = (
        f"DeiT-Tiny in ONNX Runtime on the CPU, threads: {args.threads}, all forms of a model in turns, "
        "random weights (speed depends on shapes alone). Milliseconds are medians of one forward pass of a "
        "batch; the speed-up is the median over rounds of the time of the first form over that of the form, "
        f"with its 95 % interval. No other tool reads {OPTIMISED}.\n\n"
    )
    head = ["Model", "Batch", "Form", "Nodes", "ms (p10 to p90)", "Speed-up (95 % interval)", "Verdict"]
    report("Forms of an ONNX file", body + table(head, [row(*figure) for figure in figures]), args.write)
    timings = {(title, batch, form): timing for title, form, batch, timing, _ in figures}
    for (title, batch, form), timing in timings.items():
        ours = timings[title, batch, OURS].speedup_high
        if OPTIMISED not in form and ours and timing.speedup_low and timing.speedup_low > ours:
            print(f"{title}, batch {batch}: {form} is faster than what is exported", file=sys.stderr)


if __name__ == "__main__":
    main()
