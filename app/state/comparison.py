"""The models that the Compare page puts side by side: finished runs of one dense model, and bundles."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import streamlit as st

from analysis.measure import Evaluation, Timing
from analysis.models import WEIGHTS_FILE, LoadedModel, Named
from analysis.outputs import CLASSIFY, FEATURES, task_of
from analysis.paths import absolute, is_file, user_path
from app.progress_bar import progress_bar
from app.state import finished_runs, session, session_runs
from app.state.finished_runs import NumberedRun, OpenedRun
from app.state.session import Choice
from pruning import runs
from pruning.bundle import is_bundle
from pruning.evaluation import evaluate_model
from pruning.jobs import BenchJob, Timings, read_timings
from pruning.quantize import INT8_FORMATS, QuantizedReport
from pruning.report import (
    ComparedModel,
    Comparison,
    Trade,
    dense_of,
    newest_timings,
    of_bundle,
    smaller_of,
    with_int8,
)
from pruning.wording import base_name

KEPT = 32  # evaluations of bundles that belong to no run


def groups() -> list[list[NumberedRun]]:
    """Finished runs grouped by dense model and test images; groups, and runs in them, newest first."""
    found: list[list[NumberedRun]] = []
    for run in reversed(finished_runs.sound()):
        group = next((group for group in found if group[0].finished.is_like(run.finished)), None)
        if group is None:
            found.append([run])
        else:
            group.append(run)
    return found


def is_of_loaded(group: list[NumberedRun]) -> bool:
    """Whether a group's dense model is the one that is loaded now."""
    return finished_runs.is_of_loaded(group[0])


def group_title(group: list[NumberedRun]) -> str:
    """The dense model and the images that a group has in common."""
    finished = group[0].finished
    return f"{base_name(finished.origin[0])} on {base_name(finished.data)}, {finished.after.images:,} images"


# ---- folders from elsewhere


def bundles() -> list[Path]:
    """Bundles outside of runs that this session has opened."""
    opened: list[Path] = st.session_state.setdefault("opened bundles", [])
    return opened


def open_path(path: str) -> str:
    """Open a run folder or a bundle; returns its key among the models that can be compared.

    Raises:
        ValueError: the path is neither, or the run has left no model or a damaged one.
    """
    if not path.strip():
        raise ValueError("Enter the path of a run folder or of a bundle.")
    folder = absolute(user_path(path.strip(), "The folder"))
    run = next((place for place in (folder, folder.parent) if is_file(place / runs.JOB)), None)
    if run is not None:
        found = session_runs.open_folder(str(run))
        if found.bundle is None:
            raise ValueError(
                f"{found.name} is {found.state}: only a run that has left a model can be compared"
            )
        said = finished_runs.flaw(found)
        if said is not None:
            raise ValueError(said)
        return str(found.folder)
    if not is_bundle(folder):
        raise ValueError(f"{folder} is neither a run folder nor a bundle")
    if folder not in bundles():
        bundles().append(folder)
    return str(folder)


def _evaluation(folder: Path, like: OpenedRun) -> Evaluation:
    """A bundle's accuracy on the images that a run was tested on; measured once for all sessions."""
    file = folder / WEIGHTS_FILE
    if not is_bundle(folder):
        raise ValueError(f"{folder} is no longer a bundle")
    key = (folder, file.stat().st_mtime_ns, like.origin, like.data, like.before.labels)
    with _lock:
        known = _evaluations().get(key)
    if known is None:
        loaded, test = session.model(Choice(str(folder))), like.tested()
        _require_like(loaded, folder, like, len(test.classes))
        tested = like.with_gallery(test, like.dense)
        with progress_bar() as progress:
            what = f"Evaluating {folder.name}"
            known = evaluate_model(loaded, tested, what, progress, dense=like.dense, reference=like.before)
    with _lock:
        kept = _evaluations()
        kept[key] = known
        while len(kept) > KEPT:
            kept.popitem(last=False)
    return known


def _require_like(loaded: LoadedModel, folder: Path, like: OpenedRun, classes: int) -> None:
    """Check that a bundle can be measured on the images of a run.

    Raises:
        ValueError: it has other classes, or is no backbone where the run's model is one.
    """
    own, dense = loaded.model.arch, like.dense.model.arch
    if task_of(own) != task_of(dense):
        words = {CLASSIFY: "a classifier", FEATURES: "no classifier"}
        raise ValueError(
            f"{folder.name} has {words[task_of(own)]}, but the dense model has {words[task_of(dense)]}"
        )
    if task_of(own) == FEATURES and own.feature_dim != dense.feature_dim:
        raise ValueError(
            f"{folder.name} gives features of {own.feature_dim} channels, but the dense model gives "
            f"{dense.feature_dim}"
        )
    if task_of(own) == CLASSIFY and own.num_classes != classes:
        raise ValueError(f"{folder.name} has {own.num_classes} classes, but the test images have {classes}")


_lock = Lock()


@st.cache_resource(show_spinner=False)
def _evaluations() -> OrderedDict[object, Evaluation]:
    return OrderedDict()


# ---- the comparison


def comparison(group: list[NumberedRun], chosen: list[str]) -> Comparison:
    """The chosen runs and bundles beside the dense model of their group.

    Raises:
        ValueError: a model or its evaluation cannot be read, or a bundle has other classes.
    """
    finished = group[0].finished
    of_key = {run.key: run for run in group}
    others = tuple(
        _smaller(of_key[key])
        if key in of_key
        else with_int8(of_bundle(Path(key), _evaluation(Path(key), finished)))
        for key in chosen
    )
    built = _built_int8(finished_runs.dense_files(finished.origin))
    dense = with_int8(dense_of(finished, finished.dense), built)
    measured = timings()
    return Comparison(
        dense,
        others,
        finished.tested(),
        base_name(finished.data),
        _trades(dense, group, measured),
        newest_timings(measured, [model.source for model in (dense, *others)]),
        load,
    )


def _smaller(run: NumberedRun) -> ComparedModel:
    model = smaller_of(run.finished, run.name, run.does)
    return with_int8(model, _built_int8(run.files))


def _built_int8(files: Mapping[str, Path]) -> list[QuantizedReport]:
    """The figures of int8 files that this session has built."""
    names = map(finished_runs.report_name, INT8_FORMATS)
    return [QuantizedReport.read(files[name]) for name in names if name in files]


def load(source: Named) -> LoadedModel:
    """A model, shared by all sessions."""
    return session.model(Choice.of(source))


def _trades(dense: ComparedModel, group: list[NumberedRun], measured: list[Timings]) -> tuple[Trade, ...]:
    found = [Trade(dense.name, dense.cost.gmacs, dense.result, 1.0, dense=True)]
    for run in reversed(group):
        model = smaller_of(run.finished, run.name, run.title)
        found.append(Trade.of(model, _timing(model, dense, measured)))
    return tuple(found)


def _timing(model: ComparedModel, dense: ComparedModel, measured: list[Timings]) -> Timing | None:
    """Its timing against the dense model, at the smallest batch of the newest run that timed both."""
    timed = newest_timings(measured, [model.source, dense.source])
    if timed is None:
        return None
    return timed.between(model.source, dense.source, min(timed.ms))


# ---- latency


def timings() -> list[Timings]:
    """The timings of all finished runs that measured latency, newest first; damaged ones are left out."""
    benches = [run for run in session_runs.listed() if isinstance(run.job, BenchJob) and run.state == "done"]
    return [
        _timings(run.folder, finished_runs.stamp(run)) for run in benches if finished_runs.flaw(run) is None
    ]


@st.cache_resource(max_entries=256, show_spinner=False)
def _timings(folder: Path, stamp: object) -> Timings:
    return read_timings(folder)


def newest_bench(sources: list[Named]) -> runs.Run | None:
    """The newest run that times these models, in whatever state it is."""
    for run in session_runs.listed():
        if isinstance(run.job, BenchJob) and {source[:2] for source in sources} <= set(run.job.models):
            return run
    return None
