"""What a finished run won and lost, in one line, and what one may do next."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from analysis.measure import Evaluation, cost, paired_change
from app import wording
from app.parts import feedback
from app.state import measured, session_runs
from app.state.finished_runs import NumberedRun
from pruning.jobs import RecoverJob
from pruning.runs import FinishedRun


def show(run: NumberedRun, key: str, lead: Callable[[], None] | None = None) -> None:
    """The change of top-1 in photos and whether it is real, what was saved, and the next steps.

    `lead` draws the first step of a page that has one of its own and names the run nowhere else.
    """
    finished = run.finished
    change = paired_change(finished.before, finished.after)
    with st.container(border=True, key=key, gap="small"):
        if lead is not None:
            st.caption(f"{wording.plain(run.title)} · {wording.duration(finished.seconds)}")
        st.markdown(f"**{wording.outcome(change, finished.after.measure)}**")
        if said := wording.likeness_sentence(finished.after):
            st.caption(said)
        if finished.start is not None:
            st.caption(_by_tuning(finished, finished.start))
        st.caption(_saved(run))
        _latency(run, key, time=lead is not None)
        worse = change.lost > change.gained and change.beyond_chance
        to_recover = worse and not isinstance(finished.job, RecoverJob)
        with st.container(horizontal=True, gap="small"):
            if lead is not None:
                lead()
            _next_steps(run, key, to_recover=to_recover, led=lead is not None)


def _by_tuning(finished: FinishedRun, start: Evaluation) -> str:
    """What fine-tuning did, or that its result was not taken (`pruning.jobs.unless_harmed`)."""
    if not finished.report.fine_tuned:
        return (
            "Fine-tuning made the model worse, so this is the model from before it. Choose a lower learning "
            "rate, or more images."
        )
    told = wording.outcome(paired_change(start, finished.after), finished.after.measure)
    found = start.fidelity
    before = f" Before it, the cosine of pooled features was {found.pooled.mean:.3f}." if found else ""
    return f"By fine-tuning: {told}{before}"


def _saved(run: NumberedRun) -> str:
    finished = run.finished
    before, after = finished.report, cost(finished.arch)
    figures = (
        (wording.gmacs(after.gmacs), before.gmacs_before, after.gmacs),
        (f"{wording.millions(after.params)} parameters", before.params_before, after.params),
    )
    told = [
        f"{figure} ({wording.real_change(old, new) or 'as before'})" if old else figure
        for figure, old, new in figures
    ]
    top1 = wording.percent(finished.after.top1)
    name = wording.accuracy_name(finished.after)
    return f"{name} {top1} {finished.when} · {' · '.join(told)}"


def _latency(run: NumberedRun, key: str, *, time: bool) -> None:
    """What an image takes before and after, if known; timed once the page is there, if nothing is at work."""
    known = measured.latency(run.finished)
    if known is not None:
        before, after = (wording.milliseconds(one.p50) for one in (known.b_ms, known.a_ms))
        told = f"{after} instead of {before} for one image, in PyTorch on this machine"
        st.caption(f"{told} · {wording.speedup(known)}")
    elif time and not any(one.active for one in session_runs.listed()):
        st.session_state[f"{key} drawn"] = False
        session_runs.polled(_time, run, f"{key} drawn", every=1.0)


def _time(run: NumberedRun, drawn: str) -> None:
    st.caption("Both models are being timed …")
    if not st.session_state.get(drawn):  # this is the page's own run, which must not wait
        st.session_state[drawn] = True
        return
    with feedback.sentences():  # a fragment is drawn outside of those of the page
        measured.latency(run.finished, measure=True)
        st.rerun()


def _next_steps(run: NumberedRun, key: str, *, to_recover: bool, led: bool) -> None:
    """Buttons that open the run on other pages; the first thing to do stands out, unless it is `led`."""
    recover = "Recover its accuracy" if to_recover else "Train it further"
    if _step(recover, ":material/healing:", f"{key}-recover", main=to_recover and not led):
        feedback.go("recover", student=str(run.finished.bundle))
    if _step("Compare before and after", ":material/compare_arrows:", f"{key}-compare"):
        feedback.go("compare", **{"compare opened": [run.key]})
    label, main = "Other formats" if led else "Export it", not (led or to_recover)
    if _step(label, ":material/upload_file:", f"{key}-export", main=main):
        feedback.go("export", **{"export wanted": run.key})


def _step(label: str, icon: str, key: str, *, main: bool = False) -> bool:
    return st.button(label, icon=icon, type="primary" if main else "secondary", key=key)
