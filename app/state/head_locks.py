"""Which heads a person has decided to keep or to remove: of the loaded model, in this session.

The address carries them too, so that they survive a refresh; a decision about another model's heads
is left alone.
"""

from __future__ import annotations

import streamlit as st

from analysis.models import LoadedModel
from app import wording
from app.state import address, memo, session
from pruning.criteria import weights_id
from pruning.cut import Head, HeadLocks, format_heads, parse_heads

UNDECIDED, KEEP, REMOVE = "undecided", "keep", "remove"
LABELS = {KEEP: "Keep", UNDECIDED: "Undecided", REMOVE: "Remove"}
_PARAMETERS = {"keep": "keep-heads", "remove": "remove-heads"}


def model_id(loaded: LoadedModel | None = None) -> str:
    """A short name of the loaded weights."""
    shown = loaded or session.model()
    return memo.remember("model id", shown, lambda: weights_id(shown.model), keep=8)


def locks() -> HeadLocks:
    """What is decided about the loaded model."""
    found: HeadLocks = _all().get(model_id(), HeadLocks())
    return found


def lock_of(head: Head) -> str:
    """What is decided about a head."""
    now = locks()
    return KEEP if head in now.keep else REMOVE if head in now.remove else UNDECIDED


def set_lock(head: Head, what: str) -> None:
    """Decide about a head."""
    now = locks()
    keep, remove = ({one for one in listed if one != head} for listed in (now.keep, now.remove))
    keep |= {head} if what == KEEP else set()
    remove |= {head} if what == REMOVE else set()
    _all()[model_id()] = HeadLocks(tuple(keep), tuple(remove))


def clear() -> None:
    """Decide nothing."""
    _all().pop(model_id(), None)


def allowed_locks(head: Head) -> list[str]:
    """What can be decided about a head: the last one of its block cannot go."""
    count = session.model().model.arch.blocks[head[0]].heads
    gone = sum(block == head[0] and one != head[1] for block, one in locks().remove)
    return [what for what in LABELS if what != REMOVE or gone < count - 1]


def sentence() -> str:
    """What is decided, for people; empty where nothing is."""
    now = locks()
    parts = [("stay", now.keep), ("go", now.remove)]
    said = [
        f"{wording.count(len(heads))} {'heads' if len(heads) > 1 else 'head'} locked to {verb} "
        f"({format_heads(heads[:6]).replace(',', ', ')}{', …' if len(heads) > 6 else ''})"
        for verb, heads in parts
        if heads
    ]
    return " and ".join(said)


def from_address() -> None:
    """Take over what the address says, once in a session, if it is about the loaded model."""
    asked = {name: address.given(parameter) or [] for name, parameter in _PARAMETERS.items()}
    if not any(asked.values()) or address.given("of") != [model_id()]:
        return
    try:
        found = HeadLocks(**{name: parse_heads(",".join(listed)) for name, listed in asked.items()})
        found.require_fit(session.model().model.arch)
    except ValueError:  # an address that somebody has changed: as if it said nothing
        return
    _all()[model_id()] = found


def to_address() -> None:
    """Let the address say what is decided, and about which model."""
    now = locks()
    for name, parameter in _PARAMETERS.items():
        heads = format_heads(getattr(now, name))
        address.keep(parameter, [heads] if heads else [])
    address.keep("of", [model_id()] if now else [])


def _all() -> dict[str, HeadLocks]:
    found: dict[str, HeadLocks] = st.session_state.setdefault("decisions", {})
    return found
