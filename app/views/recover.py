"""The Recover page: fine-tune a smaller model with the dense one as teacher, and watch all runs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from analysis.models import Named, Reading
from app.parts import charts, feedback, options_form, run_panel
from app.state import finished_runs, session, session_runs
from app.state.session import Choice
from app.wording import plain
from pruning import runs, wording
from pruning.bundle import is_bundle
from pruning.jobs import Job, RecoverJob, read_report
from pruning.runs import Run
from pruning.training import RECIPES, read_recovery, require_pair

RECIPE_TITLES = {"few-epochs": "A few epochs, with a teacher", "snp": "SNP's fine-tuning (300 epochs)"}
FIRST = ("epochs", "base_lr", "batch", "soft", "temperature", "features")  # options that are not folded away
LOG_LINES = 40


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
    st.header("Recover", anchor=False)
    left, right = st.columns([2, 3], gap="large")
    with left, feedback.sentences():
        _form()
    with right, feedback.sentences():
        _watch()
    with feedback.sentences():
        _all_runs()


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
    if st.button("Recover", type="primary", icon=":material/healing:", width=200, key="recover"):
        _require_teacher(job)
        session_runs.begin(job)
        st.rerun()  # so that the sidebar shows the run, too
    with st.expander("The same on the command line", icon=":material/terminal:", key="command"):
        st.code(job.command(), language="bash", wrap_lines=True)


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
    options = options_form.options(read_recovery(RECIPES[recipe]), key, FIRST)
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
    require_pair(session.model(Choice(job.model)), session.model(teacher))


def _students() -> list[Student]:
    """The models of finished runs, newest first, and the loaded model if it is a bundle."""
    found = [_of_run(run) for run in reversed(finished_runs.with_model())]
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
    return Student(run.title, str(finished.bundle), finished.origin, *data)


# ---- watching a run


def _watch() -> None:
    """One run of any kind: its progress, its curves, its log."""
    found = {str(run.folder): run for run in session_runs.listed()}
    with st.expander("Open a run folder", icon=":material/folder_open:", key="open"):
        path = st.text_input("Path of the run folder", key="run-path", persist_state="session")
        if st.button("Open", key="open-run"):
            with feedback.sentences():
                opened = str(session_runs.open_folder(path).folder)
                st.session_state["run seen"], st.session_state["run opened"] = None, opened
                st.rerun()
    if not found:
        st.caption(f"No runs yet in {plain(str(runs.runs_root()))}.")
        return
    newest = next(iter(found))
    if st.session_state.get("run seen") != newest or st.session_state.get("run") not in found:
        st.session_state["run seen"] = newest
        st.session_state["run"] = st.session_state.pop("run opened", newest)  # a new run is shown first
    chosen = st.selectbox(
        "Run", list(found), format_func=lambda key: _label(found[key]), key="run", persist_state="session"
    )
    run = found[chosen]
    run_panel.panel(run, "run-panel")
    dense = None
    with feedback.sentences():
        dense = _dense_top1(run)
    st.fragment(_curves, run_every=session_runs.POLL if run.active else None)(run.folder, dense)
    if run.job is not None:
        with st.expander("The same on the command line", icon=":material/terminal:", key="run-command"):
            st.code(_commands(run), language="bash", wrap_lines=True)


def _label(run: Run) -> str:
    return f"{run_panel.title(run)} · {_when(run)}"


def _when(run: Run) -> str:
    try:
        return time.strftime("%d %b %H:%M", time.localtime(run.status.created))
    except (OverflowError, ValueError, OSError):  # the file of a run can say anything
        return "unknown"


def _commands(run: Run) -> str:
    lines = [run.job.command()] if run.job is not None else []
    verb = "cancel" if run.active else "resume" if run.resumable else None
    return "\n".join([*lines, *([f"python -m pruning {verb} {run.folder}"] if verb else [])])


def _dense_top1(run: Run) -> float | None:
    """The dense model's accuracy, which a recovery should reach, if it is known yet."""
    if finished_runs.flaw(run) is not None:
        known = None  # the panel says what is wrong
    elif run.state == "done":
        known = runs.report(run)
    elif isinstance(run.job, RecoverJob):
        known = read_report(Path(run.job.model))  # measured when the student was pruned
    else:
        known = None
    return known.top1_before if known else None


def _curves(folder: Path, dense: float | None) -> None:
    known: dict[Path, runs.Metrics] = st.session_state.setdefault("curves", {})
    with feedback.sentences():
        known[folder] = runs.read_metrics(folder, known.get(folder, runs.Metrics()))
        measured = known[folder].curve("top1_dense")[1]
        figure = charts.curves(known[folder], measured[-1] if measured else dense)
        if figure is not None:
            st.plotly_chart(figure, config=charts.CONFIG, key="curves")
    with st.expander("Log", icon=":material/notes:", key="log"):
        st.code(runs.log(folder, LOG_LINES) or "nothing yet", language=None, wrap_lines=True, height=240)


# ---- all runs


def _all_runs() -> None:
    found = session_runs.listed()
    if found:
        st.subheader("All runs", anchor=False)
        active = any(run.active for run in found)
        st.fragment(_table, run_every=session_runs.POLL if active else None)(found)


def _table(found: list[Run]) -> None:
    """A table of all runs; those that were active are read again."""
    rows = [_row(runs.read(run.folder) if run.active else run) for run in found]
    with st.container(key="all-runs"):
        wide = {"Progress": st.column_config.TextColumn(width=220)}
        st.dataframe(pd.DataFrame(rows), hide_index=True, column_config=wide)


def _row(run: Run) -> dict[str, str]:
    said = finished_runs.flaw(run)
    return {
        "Run": run_panel.title(run),
        "Model": run_panel.model_name(run),
        "State": "damaged" if said else run.state,
        "Progress": said or run.sentence,
        "Started": _when(run),
        "Took": wording.duration(run.seconds),
        "Folder": run.name,
    }
