"""Undo and redo of what is set on the Prune page."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import streamlit as st

from app.state import session
from app.views.prune import widths

_NAMES = ("method", "mode", "tokens", "compensate")
_PREFIXES = ("align", "budget-", "heads-by", "option-", "preset-", "ratio-", "skip-unread", "smaller-")
_MOST = 100  # changes that are remembered
Settings = dict[str, Any]


@dataclass
class _History:
    """What was set, in order, and which of it is set now; for one loaded model."""

    model: session.Choice
    past: list[Settings] = field(default_factory=list)
    at: int = -1

    def note(self, now: Settings) -> None:
        """Remember a change; what was undone before it can then no longer be redone."""
        last = self.past[self.at] if self.past else None
        if last is not None and all(_same(now.get(key, value), value) for key, value in last.items()):
            self.past[self.at] = last | now  # with settings that were not on the page before
            return
        self.past = [*self.past[: self.at + 1], now][-_MOST:]
        self.at = len(self.past) - 1

    def move(self, steps: int) -> Settings:
        """Go back or forward; what is set then."""
        self.at = min(max(self.at + steps, 0), len(self.past) - 1)
        return self.past[self.at]


def buttons() -> None:
    """Draw both buttons; to be called when all settings are on the page."""
    history = _history()
    history.note(_settings())
    for name, steps, possible in (
        ("undo", -1, history.at > 0),
        ("redo", 1, history.at < len(history.past) - 1),
    ):
        st.button(
            "",
            icon=f":material/{name}:",
            key=name,
            help=f"{name.capitalize()} a change of settings",
            disabled=not possible,
            on_click=_move,
            args=(steps,),
        )


def _history() -> _History:
    kept: _History | None = st.session_state.get("settings history")
    if kept is None or kept.model != session.choice():
        kept = st.session_state["settings history"] = _History(session.choice())
    return kept


def _settings() -> Settings:
    return {str(key): value for key, value in st.session_state.items() if _is_setting(str(key), value)}


def _is_setting(key: str, value: Any) -> bool:
    if widths.is_table(key):
        return isinstance(value, pd.DataFrame)
    simple = value is None or isinstance(value, str | int | float)
    return simple and (key in _NAMES or key.startswith(_PREFIXES))


def _same(one: Any, other: Any) -> bool:
    return one.equals(other) if isinstance(one, pd.DataFrame) else bool(one == other)


def _move(steps: int) -> None:
    st.session_state.update(_history().move(steps))
    widths.redraw_table()
