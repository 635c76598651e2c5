"""The int8 files of models: accuracy, size and time of each against the float file of the same model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from analysis.paths import is_folder
from pruning import wording
from pruning.quantize import QuantizedReport

PATTERN = "*.int8.json"


def quantized_in(places: Iterable[Path]) -> tuple[QuantizedReport, ...]:
    """The reports of int8 files in these folders.

    Raises:
        ValueError: one is damaged.
    """
    found = [file for place in places if is_folder(place) for file in sorted(place.glob(PATTERN))]
    return tuple(QuantizedReport.read(file) for file in dict.fromkeys(found))


def int8_columns(models: Iterable[tuple[str, tuple[QuantizedReport, ...]]]) -> dict[str, dict[str, str]]:
    """The table of int8 files: for each a column of figures, named after the model, "run 1 int8".

    All columns have the same rows, empty where a figure is not known.
    """
    columns = {}
    for name, reports in models:
        for report in reports:
            other = ", OpenVINO" if report.format == "openvino-int8" else ""
            columns[f"{name} int8{other}"] = quantized_row(report)
    rows = dict.fromkeys(row for column in columns.values() for row in column)
    return {name: {row: column.get(row, "") for row in rows} for name, column in columns.items()}


def quantized_row(report: QuantizedReport) -> dict[str, str]:
    """The figures of an int8 file as text, by name; time is given where it was measured."""
    name = wording.ACCURACY[report.measure]
    row = {
        "Runtime": report.runtime,
        "Test images": f"{wording.count(report.images)} of {wording.base_name(report.data)}",
        name: wording.percent(report.top1_int8),
        f"{name} of the float file": wording.percent(report.top1_float),
        "Change (95 % interval)": wording.paired_points(report.top1_change),
        "Agreement": wording.percent(report.agreement),
        "Size": f"{wording.megabytes(report.bytes_int8)} "
        f"({wording.change(report.bytes_float, report.bytes_int8)})",
    }
    return row | dict(_times(report))


def _times(report: QuantizedReport) -> Iterator[tuple[str, str]]:
    for batch, timing in sorted(report.timings.items()):
        yield f"Latency, batch {batch}", wording.milliseconds(timing.a_ms.p50)
        yield f"Speed-up, batch {batch}", wording.speedup(timing)
