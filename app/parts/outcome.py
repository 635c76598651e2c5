"""What a finished run won and lost, in one line, and what one may do next."""

from __future__ import annotations

import streamlit as st

from analysis.measure import cost, paired_change
from app import wording
from app.parts import feedback
from app.state.finished_runs import NumberedRun
from pruning.jobs import RecoverJob


def show(run: NumberedRun, key: str) -> None:
    """The change of top-1 in photos and whether it is real, what was saved, and the next steps."""
    finished = run.finished
    change = paired_change(finished.before, finished.after)
    with st.container(border=True, key=key, gap="small"):
        st.markdown(f"**{wording.outcome(change, finished.after.measure)}**")
        if said := wording.likeness_sentence(finished.after):
            st.caption(said)
        if finished.start is not None:
            by_tuning = paired_change(finished.start, finished.after)
            st.caption(f"By fine-tuning: {wording.outcome(by_tuning, finished.after.measure)}")
        st.caption(_saved(run))
        worse = change.lost > change.gained and change.beyond_chance
        _next_steps(run, key, to_recover=worse and not isinstance(finished.job, RecoverJob))


def _saved(run: NumberedRun) -> str:
    finished = run.finished
    before, after = finished.report, cost(finished.arch)
    figures = (
        (wording.gmacs(after.gmacs), before.gmacs_before, after.gmacs),
        (f"{wording.millions(after.params)} parameters", before.params_before, after.params),
    )
    told = [f"{figure} ({_change(old, new)})" if old else figure for figure, old, new in figures]
    top1 = wording.percent(finished.after.top1)
    name = wording.accuracy_name(finished.after)
    return f"{name} {top1} {finished.when} · {' · '.join(told)}"


def _change(old: float, new: float) -> str:
    change = wording.change(old, new)
    return "as before" if change.strip("+-").startswith("0.0") else change


def _next_steps(run: NumberedRun, key: str, *, to_recover: bool) -> None:
    """Buttons that open the run on other pages; the first thing to do stands out."""
    recover = "Recover its accuracy" if to_recover else "Train it further"
    with st.container(horizontal=True, gap="small"):
        if _step(recover, ":material/healing:", f"{key}-recover", main=to_recover):
            feedback.go("recover", student=str(run.finished.bundle))
        if _step("Compare before and after", ":material/compare_arrows:", f"{key}-compare"):
            feedback.go("compare", **{"compare opened": [run.key]})
        if _step("Export it", ":material/download:", f"{key}-export", main=not to_recover):
            feedback.go("export", **{"export wanted": run.key})


def _step(label: str, icon: str, key: str, *, main: bool = False) -> bool:
    return st.button(label, icon=icon, type="primary" if main else "secondary", key=key)
