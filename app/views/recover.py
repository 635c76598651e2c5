"""The Recover page: fine-tune a smaller model with the dense one as teacher, and watch that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from analysis.models import Named, Reading
from analysis.outputs import FEATURES
from app import wording
from app.glossary import meaning
from app.parts import feedback, options_form, outcome, run_panel
from app.state import finished_runs, session, session_runs
from app.state.session import Choice
from app.views import recovery_time
from pruning.bundle import is_bundle
from pruning.jobs import Job, RecoverJob
from pruning.training import RECIPES, read_recovery, require_pair

RECIPE_TITLES = {"few-epochs": "A few epochs, with a teacher", "snp": "SNP's fine-tuning (300 epochs)"}
# what the options are called, where the name of the field does not say enough
TITLES = {
    "images": "Training images",
    "batch": "Batch size",
    "base_lr": "Learning rate per 512 images",
    "lr": "Fixed learning rate",
    "min_lr": "Final share of the rate",
    "warmup": "Warm-up share",
    "layer_decay": "Decay by block",
    "clip": "Longest gradient",
    "augment": "Augmentation",
    "mixup": "Mixup",
    "cutmix": "CutMix",
    "smoothing": "Label smoothing",
    "drop_path": "Stochastic depth",
    "ema": "Averaging of weights",
    "workers": "Image readers",
    "test_every": "Epochs between tests",
    "checkpoint_seconds": "Seconds between checkpoints",
    "soft": "Weight of the teacher",
    "features": "Weight of tokens",
}
BLANKS = {  # what an empty field stands for
    "images": "all there are",
    "lr": "off",
    "mixup": "off",
    "cutmix": "off",
    "drop_path": "off",
    "workers": "automatic",
}
FIRST = ("epochs", "base_lr", "batch", "soft", "temperature", "features")  # options that are not folded away


@dataclass(frozen=True)
class Student:
    """A model that can be recovered, and the teacher and images it learns from by default."""

    title: str
    model: str
    teacher: Named
    data: str
    test_data: str | None = None


def show() -> None:
    """Draw the page."""
    st.header("Recover", anchor=False, help=meaning("Recovery", "Dense model"))
    left, right = st.columns([2, 3], gap="large")
    with left, feedback.sentences():
        _form()
    with right, feedback.sentences():
        _watch()


# ---- starting a run


def _form() -> None:
    """What to recover, and how."""
    students = {student.model: student for student in _students()}
    if not students:
        st.info(
            "There is no smaller model to recover yet. Make one on the Prune page, or load a bundle in the "
            "sidebar.",
            icon=":material/content_cut:",
        )
        feedback.link("prune", "Go to Prune", ":material/arrow_back:")
        return
    job = _job(students)
    with feedback.sentences():
        st.caption(recovery_time.words(job))
        if session.model(Choice(job.model)).task == FEATURES:
            st.caption(
                "It has no classifier: it learns its teacher's features, the pooled one by its cosine and "
                "tokens by mean squared error behind LayerNorm. Labels and temperature play no part."
            )
    if st.button("Recover", type="primary", icon=":material/healing:", width=200, key="recover"):
        _require_teacher(job)
        session_runs.begin(job)
        st.rerun()  # so that the sidebar shows the run, too
    with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
        run_panel.command(job.command())


def _job(students: dict[str, Student]) -> RecoverJob:
    """The recovery that the widgets describe.

    Raises:
        ValueError: there is no teacher, there are no images, or an option is out of range.
    """
    if st.session_state.get("student") not in students:
        st.session_state.pop("student", None)
    chosen = st.selectbox(
        "Model to recover",
        list(students),
        format_func=lambda model: students[model].title,
        key="student",
        persist_state="session",
    )
    student = students[chosen]
    teacher = st.text_input(
        "Teacher",
        student.teacher.model,
        key=f"teacher of {chosen}",
        persist_state="session",
        help="The dense model: demo, a timm name, hf-hub:owner/name, or the folder of a bundle.",
    ).strip()
    recipe = st.selectbox(
        "Recipe",
        list(RECIPES),
        format_func=RECIPE_TITLES.__getitem__,
        key="recipe",
        persist_state="session",
        help="Settings to begin with. SNP's are those of its paper, for hundreds of epochs and no teacher.",
    )
    key = "recovery" if recipe == next(iter(RECIPES)) else f"recovery-{recipe}"
    options = options_form.options(read_recovery(RECIPES[recipe]), key, FIRST, TITLES, BLANKS, columns=2)
    if not teacher:
        raise session.NothingChosen("Enter the teacher: the dense model that the smaller one was made from.")
    if not student.data:
        raise session.NothingChosen("Recovery needs images to train on. Pick some in the sidebar.")
    known = teacher == student.teacher.model
    return RecoverJob(
        model=student.model,
        teacher=teacher,
        teacher_weights=student.teacher.weights if known else None,
        reading=student.teacher.reading if known else Reading(),
        data=student.data,
        test_data=student.test_data,
        options=options.changed(),
        limit=session.choice().limit,
    )


def _require_teacher(job: RecoverJob) -> None:
    """Refuse a pair of models that do not fit here, before the run would."""
    teacher = Choice(job.teacher, job.teacher_weights, reading=job.reading)
    require_pair(session.model(Choice(job.model)), session.model(teacher), job.recovery)


def _students() -> list[Student]:
    """The models of finished runs, and the loaded model if it is a bundle.

    Runs of the loaded model stand before those of others, the newest first.
    """
    runs = list(reversed(finished_runs.with_model()))
    found = [_of_run(run) for run in sorted(runs, key=lambda run: not finished_runs.is_of_loaded(run))]
    chosen = session.choice()
    if is_bundle(Path(chosen.model)):
        name = f"Loaded: {Path(chosen.model).name}"
        found.append(Student(name, chosen.model, Named(""), chosen.data or ""))
    return found


def _of_run(run: finished_runs.NumberedRun) -> Student:
    finished = run.finished
    job = finished.job
    apart = job.calibration if isinstance(job, Job) else job.test_data and job.data
    data = (apart, finished.data) if apart else (finished.data, None)
    return Student(finished_runs.title(run), str(finished.bundle), finished.origin, *data)


# ---- watching it


def _watch() -> None:
    """The newest recovery: its progress, its curves, and what it won, or the last one did that ended well."""
    found = [run for run in session_runs.listed() if isinstance(run.job, RecoverJob)]
    run = next(iter(found), None)
    if run is None:
        st.caption("Nothing has been recovered yet. A recovery at work is shown here, with its curves.")
    else:
        run_panel.panel(run, "run-panel")
        if not run.active:
            _last_result([str(one.folder) for one in found])
        run_panel.curves(run)
        with st.expander("Log", icon=":material/notes:", key="log"):
            run_panel.log(run)
    feedback.link("runs", "All runs", ":material/list:")


def _last_result(keys: Sequence[str]) -> None:
    """The outcome of the first of these runs that has one; it is named if it is not the first of all."""
    sound = {one.key: one for one in finished_runs.sound()}
    key = next((key for key in keys if key in sound), None)
    if key is None:
        return
    if key != keys[0]:
        st.caption(f"The last that ended well is {wording.plain(finished_runs.title(sound[key]))}.")
    outcome.show(sound[key], "recovered")
