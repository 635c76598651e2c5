"""The models that the Export page offers, and the files that a session has built from them."""

from __future__ import annotations

import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from analysis.measure import Cost, Evaluation, cost
from analysis.models import LoadedModel
from analysis.paths import is_file, user_path
from app.state import finished_runs, measured, session, uploads
from app.state.finished_runs import NumberedRun
from app.state.session import NothingChosen
from pruning.bundle import PLAN_FILE, zip_bundle
from pruning.export import FOLDERS, export_formats
from pruning.jobs import Job, image_sets
from pruning.progress import Progress, quiet
from pruning.quantize import (
    INT8_FORMATS,
    QuantizedReport,
    QuantizeImages,
    quantized_formats,
)
from pruning.wording import base_name

DENSE = "dense"  # the key of the loaded model among those that can be exported


@dataclass(frozen=True)
class Exportable:
    """A model that can be exported: the smaller model of `run`, or the loaded one.

    `result` is its accuracy if that is known; `stem` names its files.
    `built` are the files of this session by format, those of whole folders with their precision.
    """

    stem: str
    loaded: LoadedModel
    result: Evaluation | None
    built: dict[str, Path]
    run: NumberedRun | None = None

    @property
    def cost(self) -> Cost:
        """Parameters, MACs and bytes."""
        return cost(self.loaded.model.arch)

    @property
    def has_plan(self) -> bool:
        """Whether its bundle says which parts of a dense model were kept."""
        bundle = self.run.finished.bundle if self.run else self._own_bundle
        return bundle is not None and is_file(bundle / PLAN_FILE)

    @property
    def _own_bundle(self) -> Path | None:
        """The bundle that the loaded model came in, if it came in one."""
        named = self.loaded.source.startswith("bundle ")
        return user_path(self.loaded.name, "the model") if named else None


def of_run(run: NumberedRun) -> Exportable:
    """The smaller model of a run."""
    finished = run.finished
    method = getattr(finished.job, "method", "recovered")
    stem = f"{_file_name(finished.dense.name)}-{method}-{run.number}"
    result = None if finished.problem else finished.after
    return Exportable(stem, finished.pruned, result, run.files, run)


def of_loaded() -> Exportable:
    """The loaded model, as it is.

    Raises:
        ValueError: it cannot be loaded any more.
    """
    loaded = session.model()
    files = finished_runs.loaded_files(loaded)
    return Exportable(_file_name(loaded.name), loaded, measured.baseline(), files)


def choices() -> dict[str, str]:
    """The titles of all models that can be exported, by key.

    Runs of the loaded model stand first, from the newest on, then the loaded one, then runs of others.
    """
    runs = list(reversed(finished_runs.with_model()))
    titles = {run.key: finished_runs.title(run) for run in runs}
    mine = {run.key: titles[run.key] for run in runs if finished_runs.is_of_loaded(run)}
    loaded = {DENSE: f"{base_name(session.choice().model)}, the loaded model, not pruned"}
    return mine | loaded | titles


def chosen(key: str) -> Exportable:
    """The model of a key of `choices`.

    Raises:
        ValueError: it cannot be loaded.
    """
    run = next((run for run in finished_runs.with_model() if run.key == key), None)
    return of_loaded() if run is None else of_run(run)


def build(model: Exportable, format: str, dtype: str, progress: Progress = quiet) -> None:
    """Write one format, and keep the file to download in `built`; `dtype` is the precision of a whole folder.

    What is quantised is calibrated and tested on the session's images; its figures are kept beside the file.

    Raises:
        ValueError: the model cannot be written in this format.
        ExportError: the file computes something else than the model.
    """
    name = built_name(format, dtype)
    home = Path(tempfile.mkdtemp(prefix=f"{name.replace(' ', '-')}-", dir=uploads.workspace()))
    place = home / _stem(model, format)  # the folder in a zip has the name of the download
    if format in FOLDERS:
        export_formats(model.loaded, [format], place, dtype=dtype)
        packed = place.with_name(f"{place.name}.zip")
        packed.write_bytes(zip_bundle(place))
        model.built[name] = packed
    else:
        images = _images(model) if format in INT8_FORMATS else None
        known = quantized_formats(images, progress)
        file = export_formats(model.loaded, [format], place, known=known)[format]
        if format in INT8_FORMATS:
            model.built[finished_runs.report_name(format)] = file.with_suffix(".json")
        model.built[name] = _to_download(file, _stem(model, format))


def int8_report(model: Exportable, format: str) -> QuantizedReport | None:
    """The figures of an int8 file that was built; None for other formats."""
    file = model.built.get(finished_runs.report_name(format))
    return None if file is None else QuantizedReport.read(file)


def _images(model: Exportable) -> QuantizeImages:
    """The calibration and test images of the session, as this model reads them."""
    chosen = session.choice()
    if chosen.data is None:
        raise NothingChosen(
            "An int8 file is calibrated and tested on images. Pick a folder or zip of them in the sidebar."
        )
    job = Job(chosen.model, chosen.data, weights=chosen.weights, limit=chosen.limit, reading=chosen.reading)
    return QuantizeImages(*image_sets(job, model.loaded))


def built_name(format: str, dtype: str) -> str:
    """The key of a file among those built."""
    return f"{format} {dtype}" if format in FOLDERS else format


def size(model: Exportable, format: str, dtype: str) -> int:
    """About how many bytes a file will have."""
    half = model.loaded.half if format == "ncnn" else format in FOLDERS and dtype == "float16"
    return model.cost.bytes // (4 if format in INT8_FORMATS else 2 if half else 1)


def file_name(model: Exportable, format: str, dtype: str) -> str:
    """The name of the file that runs a format, as it is downloaded, or as it lies in the zip."""
    if format == "ncnn" or format.startswith("openvino"):
        return quantized_formats(None)[format].file
    return f"{_stem(model, format)}.{format.partition('-')[0]}"


def _stem(model: Exportable, format: str) -> str:
    told = "-int8" if format in INT8_FORMATS else "-transformers" if format == "transformers" else ""
    return model.stem + told


def dense_cost(model: Exportable) -> Cost | None:
    """What the dense model of a run costs; None for the loaded model."""
    return None if model.run is None else cost(model.run.finished.dense.model.arch)


def dense_result(model: Exportable) -> Evaluation | None:
    """The accuracy of the dense model on the same images, if it is known."""
    return model.run.finished.before if model.run and model.result else None


def _to_download(file: Path, stem: str) -> Path:
    """One file with the model's name: what was written, or a zip of it where it is more than one file."""
    parts = sorted(part for part in file.parent.iterdir() if not part.name.endswith(".int8.json"))
    if len(parts) == 1:
        return file.rename(file.parent / f"{stem}{file.suffix}")
    packed = file.parent.with_name(f"{stem}{file.suffix}.zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for part in parts:
            archive.writestr(f"{stem}/{part.name}", part.read_bytes())
    return packed


def _file_name(name: str) -> str:
    return Path(name).name.replace(":", "-") or "model"
