"""A run on a page: its state and progress, with buttons to cancel and resume it, its curves and its log."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import streamlit as st

from app import wording
from app.parts import charts, feedback
from app.state import finished_runs, session, session_runs
from app.state.session_runs import POLL, forget_listed, is_news, listed, polled
from pruning import runs
from pruning.jobs import BenchJob, RecoverJob, read_report
from pruning.runs import Run
from pruning.wording import base_name

LOG_LINES = 200
BADGES: dict[str, tuple[str, Any]] = {
    "queued": (":material/hourglass_empty:", "gray"),
    "running": (":material/play_arrow:", "blue"),
    "done": (":material/check:", "green"),
    "failed": (":material/error:", "red"),
    "cancelled": (":material/cancel:", "orange"),
    "interrupted": (":material/power_off:", "orange"),
}


def _cancel(folder: Path) -> None:
    with feedback.sentences():
        session_runs.cancel(folder)


def _resume(folder: Path) -> None:
    with feedback.sentences():
        session_runs.resume(folder)


# ---- showing


def panel(run: Run, key: str) -> None:
    """A run's state and progress, updated while it is active, with a button to cancel or resume it."""
    polled(_panel, run.folder, key, run.active, every=POLL if run.active else None)


def _panel(folder: Path, key: str, active: bool) -> None:
    run = runs.read(folder)
    if active and not run.active:
        forget_listed()
        st.rerun()  # the whole page, which now has a result to show
    with st.container(border=True, key=key), feedback.sentences():
        with st.container(horizontal=True, vertical_alignment="center"):
            badge(run)
            st.markdown(f"**{wording.plain(session_runs.title(run))}**")
        if run.active:
            st.progress(_share(run), text=wording.plain(run.sentence))
            cancelling = (run.folder / runs.CANCEL).exists()
            st.button(
                "Cancelling …" if cancelling else "Cancel",
                icon=":material/stop_circle:",
                key=f"{key}-cancel",
                disabled=cancelling,
                on_click=_cancel,
                args=(run.folder,),
            )
        elif error := run.error or finished_runs.flaw(run):
            st.error(wording.plain(error), icon=":material/error:")
        else:
            st.caption(wording.plain(run.sentence))
        if run.resumable and st.button("Resume", icon=":material/resume:", key=f"{key}-resume"):
            _resume(run.folder)
            st.rerun()


def badge(run: Run) -> None:
    """The state of a run, in its colour."""
    icon, color = BADGES[run.state]
    st.badge(run.state, icon=icon, color=color)


def _share(run: Run) -> float:
    """The share of the step that is done; the file of a run can say anything."""
    return min(max(run.status.share, 0.0), 1.0)


def model_name(run: Run) -> str:
    """The short name of the dense model that a run works on; empty for timings, which have several."""
    job = run.job
    if job is None or isinstance(job, BenchJob):
        return ""
    return base_name(job.teacher if isinstance(job, RecoverJob) else job.model)


# ---- curves and log


def curves(run: Run) -> None:
    """The curves of a training, drawn again while it goes on; nothing for other runs."""
    dense = None
    with feedback.sentences():
        dense = _dense_top1(run)
    polled(_curves, run.folder, dense, every=POLL if run.active else None)


def _curves(folder: Path, dense: float | None) -> None:
    known: dict[Path, runs.Metrics] = st.session_state.setdefault("curves", {})
    with feedback.sentences():
        known[folder] = runs.read_metrics(folder, known.get(folder, runs.Metrics()))
        measured = known[folder].curve("top1_dense")[1]
        figure = charts.curves(known[folder], measured[-1] if measured else dense)
        if figure is not None:
            st.plotly_chart(figure, config=charts.CONFIG, key="curves", alt="curves of the training")


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


def log(run: Run, height: int = 240) -> None:
    """The end of a run's log, read again while the run is at work."""
    polled(_log, run.folder, height, every=POLL if run.active else None)


def _log(folder: Path, height: int) -> None:
    written = session_runs.named(runs.log(folder, LOG_LINES))
    st.code(written or "nothing was written", language=None, wrap_lines=True, height=height)


def command(text: str) -> None:
    """A command, in which uploaded files have their names, and what to put there instead."""
    shown, uploaded = session_runs.uploads_named(text)
    st.code(shown, language="bash", wrap_lines=True)
    if uploaded:
        names = wording.plain(" and ".join(uploaded))
        st.caption(f"Uploaded here: {names}. Put the path of your own copy in its place.")


def commands(run: Run) -> str:
    """What does the same on the command line, and what cancels or resumes the run there."""
    lines = [session_runs.command(run)] if run.job is not None else []
    verb = "cancel" if run.active else "resume" if run.resumable else None
    lines += [shlex.join(["python", "-m", "pruning", verb, str(run.folder)])] if verb else []
    return "\n".join(lines)


# ---- the sidebar


def recent() -> None:
    """Runs that are active or have just ended, for the sidebar."""
    news = [run for run in listed() if is_news(run)][:4]
    if news:
        active = tuple(run.folder for run in news if run.active)
        every = POLL if active else None
        polled(_recent, tuple(run.folder for run in news), active, every=every)


def _recent(folders: tuple[Path, ...], active: tuple[Path, ...]) -> None:
    found = [runs.read(folder) for folder in folders]
    if any(run.folder in active and not run.active for run in found):
        forget_listed()
        st.rerun()
    with st.container(border=True, key="activity", gap="xsmall"):
        for run in found:
            name, sentence = wording.plain(session_runs.title(run)), wording.plain(run.sentence)
            if model_name(run) not in ("", base_name(session.choice().model)):
                sentence += f" · {wording.plain(model_name(run))}"
            if run.active:
                st.progress(_share(run), text=f"**{name}**  \n{sentence}")
            else:
                icon, color = BADGES[run.state]
                st.caption(f":{color}[{icon}] **{name}**  \n{sentence}")
        feedback.link("runs", "All runs", ":material/list:")
