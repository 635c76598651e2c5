"""What a finished run won and lost, in one line, and what one may do next."""

from __future__ import annotations

from typing import Any

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
        st.markdown(f"**{wording.outcome(change)}**")
        st.caption("  \n".join([*_gained_by_recovery(run), _saved(run)]))
        worse = change.lost > change.gained and change.beyond_chance
        _next_steps(run, key, to_recover=worse and not isinstance(finished.job, RecoverJob))


def _saved(run: NumberedRun) -> str:
    before, after = run.finished.report, cost(run.finished.arch)
    figures = (
        (wording.gmacs(after.gmacs), before.gmacs_before, after.gmacs),
        (f"{wording.millions(after.params)} parameters", before.params_before, after.params),
    )
    told = [f"{figure} ({_change(old, new)})" if old else figure for figure, old, new in figures]
    top1 = wording.percent(run.finished.after.top1)
    return f"Top-1 {top1} {run.finished.when} · {' · '.join(told)}"


def _change(old: float, new: float) -> str:
    change = wording.change(old, new)
    return "as before" if change.strip("+-").startswith("0.0") else change


def _gained_by_recovery(run: NumberedRun) -> list[str]:
    """What fine-tuning alone changed, where that was measured."""
    if run.finished.start is None:
        return []
    return [f"By fine-tuning: {wording.outcome(paired_change(run.finished.start, run.finished.after))}"]


def _next_steps(run: NumberedRun, key: str, *, to_recover: bool) -> None:
    bundle = str(run.finished.bundle)
    steps: tuple[tuple[str, str, str, bool, dict[str, Any]], ...] = (
        (
            "recover",
            "Recover its accuracy" if to_recover else "Train it further",
            ":material/healing:",
            to_recover,
            {"student": bundle},
        ),
        (
            "compare",
            "Compare before and after",
            ":material/compare_arrows:",
            False,
            {"compare opened": [run.key]},
        ),
        ("export", "Export it", ":material/download:", not to_recover, {"export wanted": run.key}),
    )
    with st.container(horizontal=True, gap="small"):
        for page, label, icon, main, state in steps:
            kind: Any = "primary" if main else "secondary"
            if st.button(label, icon=icon, type=kind, key=f"{key}-{page}"):
                feedback.go(page, **state)
