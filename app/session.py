"""What a browser session holds, and everything that is loaded once and shared by all sessions."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st

from analysis.data import ImageSet, open_data
from analysis.evaluate import Evaluation, evaluate
from analysis.models import DEMO, LoadedModel, load
from analysis.preprocess import Preprocess
from analysis.scenes import CLASSES
from analysis.vit import Architecture
from app import words
from pruning.budget import Budget
from pruning.bundle import OutputError
from pruning.criteria import Criterion
from pruning.export import ExportError
from pruning.head_locks import HeadLocks
from pruning.inputs import Progress, image_sets, require_classifier, tracked
from pruning.job import Job
from pruning.latency_budget import LatencyTable, measure_table
from pruning.methods import METHODS
from pruning.selection import Scores
from pruning.survey import Survey, score, survey, without_locked

T = TypeVar("T")

MAX_UPLOAD_MB = {"weights": 1024, "images": 512, "photo": 64}

_log = logging.getLogger(__name__)


class NothingChosen(ValueError):
    """A page needs something that has not been chosen yet; its message says what and where."""


@dataclass(frozen=True)
class Choice:
    """What the sidebar chose. `data` None: no labelled images; `limit` caps the test images."""

    model: str = "demo"
    weights: str | None = None
    data: str | None = "demo"
    limit: int = 500


@contextmanager
def sentences() -> Iterator[None]:
    """The one place that turns what a user can cause into a sentence; the rest crashes visibly."""
    try:
        yield
    except NothingChosen as error:
        st.info(words.plain(str(error)), icon=":material/arrow_back:")
    except (ValueError, OutputError, ExportError) as error:
        _log.info("shown to the user: %s", error, exc_info=True)
        st.error(words.plain(str(error)), icon=":material/error:")


# ---- what was chosen


def choice() -> Choice:
    """The model and data that are loaded now."""
    chosen: Choice = st.session_state.setdefault("choice", Choice())
    return chosen


def choose(chosen: Choice) -> None:
    """Load another model and other data; what was loaded stays if they cannot be.

    Raises:
        ValueError: the model or the data cannot be loaded, or do not fit each other.
    """
    loaded = model(chosen)
    if chosen.data == "demo" and not set(CLASSES) <= set(loaded.preprocess.labels):
        raise ValueError(
            f"{chosen.model} does not know the classes of the demo scenes ({', '.join(CLASSES[:3])}, ...): "
            "choose other images, or None to look at photos of your own."
        )
    if chosen.data is not None:
        _images(chosen.data, loaded)
    st.session_state["choice"] = chosen
    # their keys would keep the old model in memory
    for name in ("crop", "trace", "gradients", "model id", "quick heads"):
        _shelf(name).clear()


def model(chosen: Choice | None = None) -> LoadedModel:
    """The loaded model: shared by all sessions, never to be changed.

    Raises:
        ValueError: it cannot be loaded.
    """
    chosen = chosen or choice()
    return _load(chosen.model, chosen.weights, (_stamp(chosen.model), _stamp(chosen.weights)))


def warm(samples: int) -> None:
    """Load what every new session begins with, and draw so many of its images; before there is a session."""
    few = _images("demo", model(Choice())).sample(samples)
    for i in range(len(few)):
        few.image(i)


def images() -> ImageSet:
    """All images to look at and to test on; `limit` of them are tested on.

    Raises:
        ValueError: no images are chosen, or they cannot be read.
    """
    chosen = choice()
    if chosen.data is None:
        raise NothingChosen("No images are chosen. Pick a folder or zip of images in the sidebar.")
    return _images(chosen.data, model())


def class_name(index: int) -> str:
    """Name of a class of the loaded model."""
    loaded = model()
    if choice().data is not None and not loaded.preprocess.labels:
        return images().classes[index]
    return loaded.preprocess.label(index)


def class_names() -> tuple[str, ...]:
    """Names of all classes of the loaded model, each different: where two are alike, with their numbers."""
    names = [class_name(index) for index in range(model().model.arch.num_classes)]
    counts = Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names))


# The stamp makes a file that changed on disk load anew.
@st.cache_resource(max_entries=6, show_spinner="Loading the model …")
def _load(name: str, weights: str | None, stamp: object) -> LoadedModel:
    return load(name, Path(weights) if weights else None)


def _images(spec: str, loaded: LoadedModel) -> ImageSet:
    return _open(spec, _stamp(spec), loaded.preprocess, loaded.model.arch.num_classes)


# Python's own hash knows a thousand labels at once; Streamlit's walks through them at every call.
@st.cache_resource(max_entries=8, show_spinner="Opening the images …", hash_funcs={Preprocess: hash})
def _open(spec: str, stamp: object, preprocess: Preprocess, num_classes: int) -> ImageSet:
    return open_data(spec, preprocess, num_classes, "test")


def _stamp(spec: str | None) -> tuple[int, int] | None:
    path = DEMO if spec == "demo" else Path(spec or "").expanduser()
    file = path / "model.safetensors"
    try:
        stat = (file if file.exists() else path).stat()
    except (OSError, ValueError):  # a name of the hub, or no path at all: loading it will say so
        return None
    return stat.st_mtime_ns, stat.st_size


# ---- what was measured


def remember(name: str, key: object, make: Callable[[], T], keep: int = 32) -> T:
    """A result of this session, made once for each key; the oldest go first."""
    shelf = _shelf(name)
    if key not in shelf:
        shelf[key] = make()
    shelf.move_to_end(key)
    while len(shelf) > keep:
        shelf.popitem(last=False)
    result: T = shelf[key]
    return result


def recall(name: str, key: object) -> Any | None:
    """A remembered result, or None."""
    return _shelf(name).get(key)


def _shelf(name: str) -> OrderedDict[object, Any]:
    shelf: OrderedDict[object, Any] = st.session_state.setdefault(f"shelf {name}", OrderedDict())
    return shelf


def baseline(progress: Progress | None = None) -> Evaluation | None:
    """Accuracy of the loaded model on the test images; measured if `progress` is given.

    Raises:
        ValueError: no images are chosen, or one cannot be read.
    """
    chosen = choice()
    if progress is None:
        found: Evaluation | None = recall("baseline", chosen)
        return found
    require_classifier(model())
    loaded, test = model(), test_images()
    return remember(
        "baseline",
        chosen,
        lambda: evaluate(loaded.model, tracked(test, loaded, "Evaluating the dense model", progress)),
    )


def keep_baseline(job: Job, result: Evaluation) -> None:
    """Keep what a run measured, if it is the accuracy of the loaded model on the test images chosen."""
    chosen = choice()
    if (job.model, job.weights, job.data, job.limit) == astuple(chosen) and not (
        job.trains or job.calibration
    ):
        remember("baseline", chosen, lambda: result)


def test_count() -> int:
    """How many images accuracy is measured on."""
    return min(choice().limit, len(images()))


def few_images(count: int) -> ImageSet:
    """A few of the test images, all classes alike; found once, as it takes all names of a large set."""
    found = images()
    return remember("few images", (choice(), count), lambda: found.sample(min(count, len(found))), keep=4)


def test_images() -> ImageSet:
    """The images that accuracy is measured on, the same ones that a run tests on."""
    return few_images(test_count()) if test_count() < len(images()) else images()


def scores(job: Job, progress: Progress) -> Scores:
    """Importance by the job's method, of what the locks leave; computed once, whatever is then removed."""
    key = _measured_alike(job, None)
    calibration, _ = image_sets(job, model())
    make = lambda: score(job, without_locked(job, model()), calibration, progress)
    return remember("scores", key, make, keep=8)


def _measured_alike(job: Job, budget: Budget | None) -> Job:
    """The job without all that plays no part in what is measured before anything is cut."""
    locks = HeadLocks(remove=job.locks.remove)
    job = replace(job, ratios=Job.ratios, preset=None, heads_by=None, budget=budget, align=1, limit=None)
    return replace(job, compensate=False, recovery=None, locks=locks, skip_unread=False)


def surveyed(job: Job, progress: Progress | None = None) -> Survey | None:
    """What budgets are solved on by the job's method, whatever their size; measured if `progress` is given.

    Raises:
        ValueError: the method takes no budget, or no images are chosen.
    """
    budget = Budget(gmacs=1.0, images=job.budget.images if job.budget else Budget.images)
    key = _measured_alike(job, budget)
    if progress is None:
        found: Survey | None = recall("survey", key)
        return found
    require_classifier(model())
    calibration, _ = image_sets(job, model())
    known = scores(job, progress) if isinstance(METHODS[job.method], Criterion) else None
    make = lambda: survey(job, without_locked(job, model()), calibration, progress, known)
    return remember("survey", key, make, keep=8)


def width_times(arch: Architecture, batch: int, align: int, progress: Progress) -> LatencyTable:
    """Milliseconds of a model's blocks by width on this machine, timed once."""
    make = lambda: measure_table(arch, batch, align, progress)
    return remember("width times", (arch, batch, align), make, keep=8)


# ---- files


class Workspace:
    """A temporary folder that goes when the session does."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="prunescope-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def workspace() -> Path:
    """The session's temporary folder."""
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = Workspace()
    kept: Workspace = st.session_state["workspace"]
    return kept.path


def save_upload(upload: Any) -> str:
    """Keep an uploaded file for this session under a name made from its content; returns the path."""
    content = upload.getbuffer()
    digest = hashlib.blake2b(content, digest_size=8).hexdigest()
    folder = workspace() / digest
    path = folder / Path(upload.name).name
    if not path.exists():
        folder.mkdir(exist_ok=True)
        path.write_bytes(content)
    return str(path)


# ---- getting about


def link(page: str, label: str, icon: str | None = None) -> None:
    """A link to another page of the app."""
    st.page_link(st.session_state["pages"][page], label=label, icon=icon)


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar that shows what is being done, gone at the end."""
    bar = st.progress(0.0, text=" ")

    def show(what: str, share: float) -> None:
        bar.progress(min(share, 1.0), text=f"{what} · {share:.0%}")

    try:
        yield show
    finally:
        bar.empty()
