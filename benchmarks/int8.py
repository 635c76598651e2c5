"""DeiT-Tiny and its default budgets in int8: accuracy against their float files, and latency in turns.

    PRUNESCOPE_DATA=FOLDER python benchmarks/int8.py --write --threads 1 [--bundles FOLDER FOLDER]

Without --bundles, the budgets of 0.71 and 0.58 GMACs are pruned first, which takes about half an hour. With
them it takes about ten minutes on two cores. Everything runs in ONNX Runtime on the CPU.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import deit_tiny, parser, report, speedup, table

from analysis.measure import Times, compare, cost, percentiles, take_turns
from analysis.models import LoadedModel, load
from pruning.budget import Budget
from pruning.export import export_formats, onnx_runner
from pruning.jobs import make_smaller, prepare
from pruning.quantize import QuantizedReport, QuantizeImages, quantized_formats
from pruning.wording import paired_points

BUDGETS = (0.71, 0.58)
BATCHES = (1, 8)


@dataclass(frozen=True)
class Files:
    """A model's float file and its int8 file, with what was measured of the latter."""

    title: str
    model: LoadedModel
    folder: Path
    measured: QuantizedReport

    @property
    def both(self) -> tuple[Path, Path]:
        return self.folder / "model.onnx", self.folder / "model.int8.onnx"

    def row(self) -> list[str]:
        """The accuracy of int8 against float."""
        found = self.measured
        return [
            self.title,
            f"{100 * found.top1_float:.1f} %",
            f"{100 * found.top1_int8:.1f} %",
            paired_points(found.top1_change),
            f"{100 * found.agreement:.1f} %",
            f"{found.kl:.4f}",
            f"{found.bytes_float / 1e6:.1f}",
            f"{found.bytes_int8 / 1e6:.1f}",
            "none" if found.smoothing is None else f"{found.smoothing:g}",
            ", ".join(found.floating) or "none",
        ]

    def trials(self) -> str:
        """Divergences of everything in int8, by how far the model was smoothed."""
        whole = [trial for trial in self.measured.tried if not trial.floating]
        found = ", ".join(f"{'not' if t.alpha is None else f'{t.alpha:g}'} {t.kl:.4f}" for t in whole)
        return f"{self.title}: {found}; {len(self.measured.tried) - len(whole)} trials with layers in float"


HEAD = [
    "",
    "Top-1, float",
    "Top-1, int8",
    "Change",
    "Agreement",
    "KL, nats",
    "MB, float",
    "MB, int8",
    "Smoothing",
    "Layers in float",
]


def models(bundles: list[str] | None) -> list[LoadedModel]:
    """The dense model, and the bundles that are given, or one made for each budget."""
    job = deit_tiny()
    dense = load(job.model, Path(job.weights or ""))
    if bundles:
        return [dense, *(load(folder) for folder in bundles)]
    made = []
    for budget in BUDGETS:
        run = prepare(replace(job, method="spectral", budget=Budget(gmacs=budget), align=8, skip_unread=True))
        made.append(replace(dense, model=make_smaller(run).model))
    return [dense, *made]


def quantise(title: str, loaded: LoadedModel, images: QuantizeImages, folder: Path) -> Files:
    """Write both files of a model, and measure the int8 one."""
    print(title, file=sys.stderr, flush=True)
    export_formats(loaded, ["onnx", "onnx-int8"], folder, known=quantized_formats(images))
    return Files(title, loaded, folder, QuantizedReport.read(folder / "model.int8.json"))


def latency(files: list[Files], threads: int, rounds: int) -> dict[int, Times]:
    """All float and int8 files in the same turns."""
    arch = files[0].model.model.arch
    runners = [onnx_runner(file, threads) for one in files for file in one.both]
    shape = (arch.in_channels, *arch.image_size)
    return take_turns(runners, shape, BATCHES, threads=threads, rounds=rounds, looks=1)


def speed_rows(files: list[Files], times: dict[int, Times]) -> list[list[str]]:
    """For each batch size and model: milliseconds, and speed-ups over its own and the dense float file."""
    rows = []
    for batch, each in times.items():
        for index, one in enumerate(files):
            floating, quantised = each[2 * index], each[2 * index + 1]
            rows.append(
                [
                    str(batch),
                    one.title,
                    *(f"{percentiles(some).p50:.1f}" for some in (floating, quantised)),
                    speedup(compare(quantised, floating, looks=1)),
                    speedup(compare(floating, each[0], looks=1)) if index else "",
                    speedup(compare(quantised, each[0], looks=1)),
                ]
            )
    return rows


SPEED_HEAD = [
    "Batch",
    "",
    "Float, ms",
    "Int8, ms",
    "Float / int8",
    "Dense float / float",
    "Dense float / int8",
]


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--bundles", nargs="+", metavar="FOLDER", help="bundles pruned to the budgets")
    arguments.add_argument("--rounds", type=int, default=60)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    run = prepare(deit_tiny())
    images = QuantizeImages(run.calibration, run.test)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, loaded in enumerate(models(args.bundles)):
            gmacs = cost(loaded.model.arch).macs / 1e9
            title = f"{gmacs:.2f} GMACs{'' if index else ', dense'}"
            files.append(quantise(title, loaded, images, Path(folder) / str(index)))
        print("timing", file=sys.stderr, flush=True)
        times = latency(files, args.threads, args.rounds)
    first = files[0].measured
    body = (
        f"DeiT-Tiny (LayerNorms rounded) and its spectral budgets, before fine-tuning, in {first.runtime} on "
        f"the CPU, {args.threads} threads; top-1 on {first.images} photos, an easy subset of the ImageNet-1k "
        "validation set, with the paired change from float to int8 and its 95 % interval. Ranges are taken "
        f"from {first.calibration_images} photos of ten classes; smoothing and layers in float are chosen on "
        "as many others, by the mean KL divergence in a simulation. Linear layers are int8; the patch "
        "embedding and both products of attention stay in float.\n\n"
        + table(HEAD, [one.row() for one in files])
        + "\n\nDivergence in nats by smoothing: "
        + ". ".join(one.trials() for one in files)
        + f".\n\nMedian of {args.rounds} rounds, all files in the same turns; speed-ups with 95 % "
        "intervals.\n\n" + table(SPEED_HEAD, speed_rows(files, times))
    )
    report("Int8, DeiT-Tiny", body, args.write)


if __name__ == "__main__":
    main()
