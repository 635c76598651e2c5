"""The formats that need calibration images or a runtime of their own, beside those of `pruning.export`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from analysis.data import ImageSet, batches
from analysis.models import Preprocess
from analysis.outputs import task_of
from analysis.vit import ViT
from pruning.export import FILES, FOLDERS, FileFormat, check_logits, is_our_onnx, onnx_runner, write_onnx
from pruning.progress import Progress, quiet
from pruning.quantize.check import Logits, compare_predictions, compare_speed
from pruning.quantize.choose import Choice, choose
from pruning.quantize.layers import linear_layers
from pruning.quantize.onnx import nodes_of, quantize_onnx
from pruning.quantize.openvino import (
    is_openvino,
    openvino_from_onnx,
    openvino_runner,
    quantize_openvino,
)
from pruning.quantize.report import QuantizedReport

INT8_FORMATS = ("onnx-int8", "openvino-int8")
FORMATS = (*FOLDERS, *FILES, "onnx-int8", "openvino", "openvino-int8")
FIT, ASIDE = 64, 64  # calibration images that ranges are taken from, and that settings are chosen on
_BATCH = 8


@dataclass(frozen=True, eq=False)
class QuantizeImages:
    """The images to calibrate on and those to test on, which must be others."""

    calibration: ImageSet
    test: ImageSet

    def calibration_batches(self, preprocess: Preprocess) -> tuple[list[Tensor], list[Tensor]]:
        """Batches of images to take ranges from, and of others, held aside to choose settings on.

        Raises:
            ValueError: fewer than two images.
        """
        if len(self.calibration) < 2:
            raise ValueError(f"quantising needs at least 2 calibration images, got {len(self.calibration)}")
        sample = self.calibration.sample(FIT + ASIDE)
        middle = min(FIT, len(sample) // 2)
        parts = sample.subset(range(middle)), sample.subset(range(middle, len(sample)))
        fit, aside = ([batch for batch, _ in batches(part, preprocess, _BATCH)] for part in parts)
        return fit, aside


def quantized_formats(images: QuantizeImages | None, progress: Progress = quiet) -> dict[str, FileFormat]:
    """All formats that are files, by name: those of `pruning.export`, and `FORMATS` that quantise.

    `images` may be None where no int8 format is to be written. Each int8 file has a `QuantizedReport`
    beside it: model.int8.json for model.int8.onnx.
    """
    ours = {
        "openvino": FileFormat("openvino.xml", _write_openvino, is_openvino, ("openvino.bin",)),
        "onnx-int8": FileFormat(
            "model.int8.onnx", partial(_write_onnx_int8, images, progress), is_our_onnx, ("model.int8.json",)
        ),
        "openvino-int8": FileFormat(
            "openvino.int8.xml",
            partial(_write_openvino_int8, images, progress),
            is_openvino,
            ("openvino.int8.bin", "openvino.int8.json"),
        ),
    }
    return dict(FILES) | ours


def _write_onnx_int8(
    images: QuantizeImages | None, progress: Progress, model: ViT, preprocess: Preprocess | None, path: Path
) -> None:
    given, preprocess = _needed(images, preprocess)
    fit, aside = given.calibration_batches(preprocess)
    choice = choose(model, fit, aside, progress)
    layers = {name: layer for name, layer in linear_layers(choice.model).items() if name in choice.quantised}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(choice.model, preprocess, source)
        progress("Quantising", 0.0)
        quantize_onnx(source, path, fit, list(nodes_of(source, layers).values()))
        measure = _Measure(
            "onnx-int8", f"ONNX Runtime {version('onnxruntime')}", _onnx_logits, given, progress
        )
        measure.write_report(model, preprocess, source, path, sum(map(len, fit)), choice)


def _write_openvino(model: ViT, preprocess: Preprocess | None, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(model, preprocess, source)
        openvino_from_onnx(source, path)
    check_logits("OpenVINO", openvino_runner(path, torch.get_num_threads()), model)


def _write_openvino_int8(
    images: QuantizeImages | None, progress: Progress, model: ViT, preprocess: Preprocess | None, path: Path
) -> None:
    given, preprocess = _needed(images, preprocess)
    fit, _ = given.calibration_batches(preprocess)
    with tempfile.TemporaryDirectory() as folder:
        source, floating = Path(folder) / "model.onnx", Path(folder) / "openvino.xml"
        write_onnx(model, preprocess, source)
        openvino_from_onnx(source, floating)
        progress("Quantising", 0.0)
        quantize_openvino(source, path, fit)
        runtime = f"OpenVINO {version('openvino')}"
        measure = _Measure("openvino-int8", runtime, openvino_runner, given, progress)
        measure.write_report(model, preprocess, floating, path, sum(map(len, fit)))


def _onnx_logits(file: Path, threads: int) -> Logits:
    return cast(Logits, onnx_runner(file, threads))


def _needed(
    images: QuantizeImages | None, preprocess: Preprocess | None
) -> tuple[QuantizeImages, Preprocess]:
    if images is None or preprocess is None:
        raise ValueError(f"the formats {' and '.join(INT8_FORMATS)} need images: specify --data")
    return images, preprocess


@dataclass(frozen=True)
class _Measure:
    """How a quantised file is measured: its format, its runtime, and the images."""

    format: str
    runtime: str
    runner: Callable[[Path, int], Logits]
    images: QuantizeImages
    progress: Progress

    def write_report(
        self,
        model: ViT,
        preprocess: Preprocess,
        floating: Path,
        quantised: Path,
        calibrated: int,
        choice: Choice | None = None,
    ) -> None:
        """Measure a quantised file against the float file; the report lies beside it."""
        threads, arch = torch.get_num_threads(), model.arch
        before, after = (self.runner(file, threads) for file in (floating, quantised))
        found = compare_predictions(before, after, self._test_batches(preprocess), task_of(model))
        timings = compare_speed(before, after, (arch.in_channels, *arch.image_size), threads, self.progress)
        report = QuantizedReport(
            format=self.format,
            file=quantised.name,
            runtime=self.runtime,
            calibration=self.images.calibration.name,
            calibration_images=calibrated,
            data=self.images.test.name,
            images=found.before.images,
            top1_float=found.before.top1,
            top1_int8=found.after.top1,
            top1_change=found.change,
            agreement=found.agreement,
            kl=found.kl,
            bytes_float=_bytes(floating),
            bytes_int8=_bytes(quantised),
            threads=threads,
            timings=timings,
            smoothing=choice.best.alpha if choice else None,
            floating=choice.best.floating if choice else (),
            tried=choice.tried if choice else (),
            measure=found.after.measure,
        )
        quantised.with_suffix(".json").write_text(report.to_json(), encoding="utf-8", newline="\n")

    def _test_batches(self, preprocess: Preprocess) -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for images, labels in batches(self.images.test, preprocess, _BATCH):
            yield images, labels
            done += len(labels)
            self.progress("Testing the quantised file", done / len(self.images.test))


def _bytes(file: Path) -> int:
    """Size of a file, with that of its weights where they lie in a second one."""
    return sum(one.stat().st_size for one in (file, file.with_suffix(".bin")) if one.is_file())
