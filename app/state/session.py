"""What this session has chosen, and the models and images, which are loaded once for all sessions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import streamlit as st

from analysis.data import CLASSES, ImageSet, open_data
from analysis.models import DEMO, WEIGHTS_FILE, LoadedModel, Named, Preprocess, Reading, load_named
from analysis.outputs import CLASSIFY
from analysis.paths import user_path
from app.state.memo import forget, remember
from pruning.evaluation import EvaluationImages


class NothingChosen(ValueError):
    """A page needs something that is not chosen yet; the message says what, and where to choose it."""


@dataclass(frozen=True)
class Choice:
    """What is chosen in the sidebar: `data` None for no images, and at most `limit` test images."""

    model: str = "demo"
    weights: str | None = None
    data: str | None = "demo"
    limit: int = 500
    reading: Reading = Reading()

    @classmethod
    def of(cls, named: Named) -> Choice:
        """This model."""
        return cls(named.model, named.weights, reading=named.reading)

    @property
    def named(self) -> Named:
        """The model."""
        return Named(self.model, self.weights, self.reading)


# ---- what was chosen


def choice() -> Choice:
    """The model and images that are loaded now."""
    chosen: Choice = st.session_state.setdefault("choice", Choice())
    return chosen


def choose(chosen: Choice) -> Choice:
    """Load another model and other images; if that fails, nothing changes. Returns what is loaded.

    The demo scenes are left out for a model that does not know their classes.

    Raises:
        ValueError: the model or the images cannot be loaded, or do not fit each other.
    """
    loaded = model(chosen)
    if chosen.data == "demo" and not set(CLASSES) <= set(loaded.preprocess.labels):
        chosen = replace(chosen, data=None)
    if chosen.data is not None:
        _images(chosen.data, loaded)
    st.session_state["choice"] = chosen
    # their keys or values would keep the model that was loaded before in memory
    for name in ("crop", "trace", "gradients", "gallery", "objects", "model id", "quick heads"):
        forget(name)
    return chosen


def model(chosen: Choice | None = None) -> LoadedModel:
    """A model, by default the loaded one. All sessions share it, so it must never be changed.

    Raises:
        ValueError: it cannot be loaded.
    """
    chosen = chosen or choice()
    return _load(chosen.named, (_stamp(chosen.model), _stamp(chosen.weights)))


def warm_up(samples: int) -> None:
    """Load what every new session begins with, and so many of its images, before there is a session."""
    few = demo_scenes(samples)
    for i in range(len(few)):
        few.image(i)


def demo_scenes(count: int) -> ImageSet:
    """A few of the images that come with the app."""
    return _images("demo", model(Choice())).sample(count)


def images_of(chosen: Choice) -> ImageSet | None:
    """All images of a choice that is not loaded yet; None if it has none.

    Raises:
        ValueError: they cannot be read, or do not fit the model.
    """
    return None if chosen.data is None else _images(chosen.data, model(chosen))


def images() -> ImageSet:
    """All loaded images, of which accuracy is measured on at most `limit`.

    Raises:
        ValueError: no images are chosen, or they cannot be read.
    """
    chosen = choice()
    if chosen.data is None:
        raise NothingChosen("No images are chosen. Pick a folder or zip of images in the sidebar.")
    return _images(chosen.data, model())


def class_names() -> tuple[str, ...]:
    """Names of all classes of the loaded model, in order; two of them may be alike."""
    loaded = model()
    names = loaded.preprocess.labels
    if not names and choice().data is not None:
        names = images().classes
    unnamed = range(len(names), loaded.model.arch.num_classes)
    return (*names, *(loaded.preprocess.label(index) for index in unnamed))


# The stamp makes a file that has changed on disk load again.
@st.cache_resource(max_entries=6, show_spinner="Loading the model …", hash_funcs={Named: hash})
def _load(named: Named, stamp: object) -> LoadedModel:
    return load_named(named)


def _images(spec: str, loaded: LoadedModel, split: str = "test") -> ImageSet:
    return _open(spec, _stamp(spec), loaded.preprocess, loaded.model.arch.num_classes, split)


# Python caches the hash of each label; Streamlit's own hashing would walk through all labels on every call.
@st.cache_resource(max_entries=8, show_spinner="Opening the images …", hash_funcs={Preprocess: hash})
def _open(spec: str, stamp: object, preprocess: Preprocess, num_classes: int, split: str) -> ImageSet:
    return open_data(spec, preprocess, num_classes, split)


def _stamp(spec: str | None) -> tuple[int, int] | None:
    if not spec:
        return None
    try:
        path = DEMO if spec == "demo" else user_path(spec)
        file = path / WEIGHTS_FILE
        stat = (file if file.exists() else path).stat()
    except (OSError, ValueError):  # the name of a model, or a bad path, which loading will report
        return None
    return stat.st_mtime_ns, stat.st_size


def test_count() -> int:
    """The number of images that accuracy is measured on."""
    return min(choice().limit, len(images()))


def few_images(count: int) -> ImageSet:
    """At most `count` images in which every class has its share; they are chosen only once."""
    found = images()
    return remember("few images", (choice(), count), lambda: found.sample(min(count, len(found))), keep=4)


def test_images() -> ImageSet:
    """The images that accuracy is measured on, the same that a run tests on."""
    return few_images(test_count()) if test_count() < len(images()) else images()


def tried_images(count: int) -> ImageSet:
    """At most `count` of the test images, the same that a trial takes."""
    tested = test_images()
    return remember("tried images", (choice(), count), lambda: tested.sample(min(count, len(tested))), keep=4)


def test_set(count: int | None = None) -> EvaluationImages:
    """The test images, or so many of them, with the calibration images as a gallery for features."""
    loaded, chosen = model(), choice()
    shown = test_images() if count is None else tried_images(count)
    if loaded.task == CLASSIFY or chosen.data is None:
        return EvaluationImages(shown)
    gallery = _images(chosen.data, loaded, "calibration")
    return EvaluationImages.of(
        shown, gallery if count is None else gallery.sample(min(2 * count, len(gallery)))
    )
