"""The locks of heads: which heads of the loaded model every method must keep or must remove.

They belong to the session, one set for each model. The address carries those of the loaded model, so
that they survive a refresh; locks of another model in the address are ignored.
"""

from __future__ import annotations

import streamlit as st

from analysis.models import LoadedModel
from app import wording
from app.state import address, memo, session
from pruning.criteria import weights_id
from pruning.cut import Head, HeadLocks, format_heads, parse_heads

NO_LOCK, KEEP, REMOVE = "none", "keep", "remove"
LABELS = {KEEP: "Keep", NO_LOCK: "No lock", REMOVE: "Remove"}
_PARAMETERS = {"keep": "keep-heads", "remove": "remove-heads"}


def model_id(loaded: LoadedModel | None = None) -> str:
    """A short name of the weights, by default those that are loaded."""
    shown = loaded or session.model()
    return memo.remember("model id", shown, lambda: weights_id(shown.model), keep=8)


def locks() -> HeadLocks:
    """All locks of the loaded model's heads."""
    found: HeadLocks = _all().get(model_id(), HeadLocks())
    return found


def lock_of(head: Head) -> str:
    """The lock of one head."""
    now = locks()
    return KEEP if head in now.keep else REMOVE if head in now.remove else NO_LOCK


def set_lock(head: Head, lock: str) -> None:
    """Lock a head, or take its lock away."""
    now = locks()
    keep, remove = ({one for one in listed if one != head} for listed in (now.keep, now.remove))
    keep |= {head} if lock == KEEP else set()
    remove |= {head} if lock == REMOVE else set()
    _all()[model_id()] = HeadLocks(tuple(keep), tuple(remove))


def clear() -> None:
    """Take all locks of the loaded model away."""
    _all().pop(model_id(), None)


def allowed_locks(head: Head) -> list[str]:
    """The locks a head can have; one head of each block must not be locked for removal."""
    count = session.model().model.arch.blocks[head[0]].heads
    others = sum(block == head[0] and one != head[1] for block, one in locks().remove)
    return [lock for lock in LABELS if lock != REMOVE or others < count - 1]


def sentence() -> str:
    """The locks in words, without a full stop; empty where there are none."""
    now = locks()
    parts = [
        f"{wording.count(len(heads))} {'heads' if len(heads) > 1 else 'head'} to {verb} "
        f"({format_heads(heads[:6]).replace(',', ', ')}{', …' if len(heads) > 6 else ''})"
        for verb, heads in (("keep", now.keep), ("remove", now.remove))
        if heads
    ]
    return f"Locked: {', '.join(parts)}" if parts else ""


def from_address() -> None:
    """Take over the locks in the address, once in a session, if they are those of the loaded model."""
    asked = {name: address.read_once(parameter) or [] for name, parameter in _PARAMETERS.items()}
    if not any(asked.values()) or address.read_once("of") != [model_id()]:
        return
    try:
        found = HeadLocks(**{name: parse_heads(",".join(listed)) for name, listed in asked.items()})
        found.require_fit(session.model().model.arch)
    except ValueError:  # somebody has edited the address: as if it had no locks
        return
    _all()[model_id()] = found


def to_address() -> None:
    """Write the locks into the address, and which model they belong to."""
    now = locks()
    for name, parameter in _PARAMETERS.items():
        heads = format_heads(getattr(now, name))
        address.write(parameter, [heads] if heads else [])
    address.write("of", [model_id()] if now else [])


def _all() -> dict[str, HeadLocks]:
    found: dict[str, HeadLocks] = st.session_state.setdefault("head locks", {})
    return found
