"""What the Prune page asks besides its one question, and the `Job` that comes of all answers."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

from analysis.measure import cost
from analysis.outputs import FEATURES, task_of
from analysis.vit import Architecture
from app.parts import feedback
from app.parts.options_form import options
from app.state import address, head_locks, session
from app.views.prune import exact, following, offered, question, widths
from app.views.prune.offered import ASK, BIND, EXACT
from pruning.budget import Budget
from pruning.criteria import CRITERIA
from pruning.cut import Ratios
from pruning.jobs import Job, default_align, default_skip_unread
from pruning.methods import METHODS
from pruning.options import Value
from pruning.runs import LONGEST_NAME

ALIGN = (1, 4, 8, 16)
METHOD, MODE = "method", "mode"  # keys of widgets, and names in the address
_RUN_NAME = "run-name"  # counts the names given: a field that is drawn already cannot be emptied


@dataclass(frozen=True)
class Choices:
    """What is chosen besides the answer to the question; `budget` is one that was given exactly.

    `tokens` are merged in every block where no budget finds how many; `merging` and `shallower` say whether a
    budget may merge tokens and leave out whole attentions and MLPs.
    """

    method: str
    options: tuple[tuple[str, Value], ...]
    mode: str
    ratios: Ratios = Ratios()
    preset: str | None = None
    budget: Budget | None = None
    runtime: str | None = None
    device: str | None = None
    align: int = 1
    skip_unread: bool | None = False
    heads_by: str | None = None
    compensate: bool = False
    tokens: int | None = None
    merging: bool = True
    shallower: bool = True

    @property
    def asks(self) -> bool:
        """Whether the widths are found for the answer to the question."""
        return self.mode == ASK

    def job(self, answer: Budget | None) -> Job:
        """The run that is described.

        Raises:
            ValueError: ratios that no run can have.
        """
        chosen, budget = session.choice(), answer if self.asks else self.budget
        if budget is not None:
            budget = replace(budget, tokens=self.merging, depth=self.shallower)
        return Job(
            model=chosen.model,
            weights=chosen.weights,
            reading=chosen.reading,
            data=chosen.data or "",
            method=self.method,
            options=self.options,
            ratios=self.ratios,
            preset=self.preset,
            budget=budget,
            tokens=None if budget is not None else self.tokens,
            align=self.align,
            limit=chosen.limit,
            heads_by=self.heads_by,
            compensate=self.compensate,
            locks=head_locks.locks(),
            skip_unread=self.skip_unread,
            runtime=self.runtime,
            device=self.device,
        )


def is_asked() -> bool:
    """Whether the page was last left at its question, which a new session begins with."""
    return st.session_state.get(MODE, st.query_params.get(MODE, ASK)) == ASK


def ask_again() -> None:
    """Go back to the one question, from a callback."""
    st.session_state[MODE], st.session_state[METHOD] = ASK, offered.RECOMMENDED[0]


def choices(dense: Architecture) -> Choices:
    """Draw everything but the question.

    Raises:
        ValueError: ratios that no run can have.
    """
    method = _method()
    chosen = Choices(method, (), _mode(method, dense))
    kind = None
    if chosen.mode == "sliders":
        chosen = replace(chosen, ratios=widths.sliders(method, dense), tokens=widths.tokens(dense))
        follows = st.container()
    elif chosen.mode == "blocks":
        chosen = replace(chosen, ratios=widths.per_block(method, dense), tokens=widths.tokens(dense))
    elif chosen.mode == "preset":
        chosen = replace(chosen, preset=widths.preset(dense))
    elif chosen.mode == EXACT:
        budget = exact.budget(cost(dense))
        runtime, device = exact.timed_by() if budget.kind == "ms" else (None, None)
        chosen, kind = replace(chosen, budget=budget, runtime=runtime, device=device), budget.kind
    else:
        kind = question.unit_now()
    heads_by, compensate = _besides(method, chosen.ratios)
    one: dict[str, Any] = {} if kind is None else {kind: 1}
    like = Budget(**one) if one else None
    merging, shallower = _switches(kind)
    chosen = replace(
        chosen,
        merging=merging,
        shallower=shallower,
        align=_align(like),
        skip_unread=_besides_widths(dense, like),
        heads_by=heads_by,
        compensate=compensate,
        options=_options(method),
    )
    if chosen.mode == "sliders":
        with follows:
            following.show(chosen.job(None), dense)
    return chosen


def run_name() -> str:
    """A name for the run, which may stay empty."""
    name = st.text_input(
        "Name of the run",
        key=f"{_RUN_NAME} {st.session_state.get(_RUN_NAME, 0)}",
        max_chars=LONGEST_NAME,
        persist_state="session",
        placeholder="half the heads",
        help="Shown beside its number on every page. It can be changed on the Runs page.",
    )
    return " ".join((name or "").split())


def forget_run_name() -> None:
    """Empty the field once a run has the name."""
    st.session_state[_RUN_NAME] = st.session_state.get(_RUN_NAME, 0) + 1


def _method() -> str:
    """A method: the recommended one first, then those from papers, then controls."""
    names = offered.methods()
    method = address.pick(
        METHOD,
        METHOD,
        names,
        lambda: st.selectbox("Method", names, format_func=offered.label, key=METHOD, persist_state="session"),
    )
    st.caption(METHODS[method].explanation)
    return method


def _options(method: str) -> tuple[tuple[str, Value], ...]:
    """Those of a method's options that are not at their default."""
    if not fields(METHODS[method].options):
        return ()
    start = METHODS[method].options()
    with st.expander(f"Settings of {METHODS[method].title}", key="method-options"):
        found = options(start, f"option-{method}", titles=offered.OPTIONS, columns=2, bind=BIND)
    return found.changed()


def _mode(method: str, dense: Architecture) -> str:
    modes = offered.modes(method, dense)
    return address.pick(
        MODE,
        MODE,
        modes,
        lambda: st.pills(  # segments break apart where they need a second line
            "Widths chosen by",
            modes,
            format_func=offered.MODES.__getitem__,
            required=True,
            key=MODE,
            persist_state="session",
        ),
    )


def _align(budget: Budget | None) -> int:
    align: int = st.segmented_control(
        "Round widths to multiples of",
        ALIGN,
        default=default_align(budget),
        required=True,
        key="align-budget" if budget else "align",
        bind=BIND,
        persist_state="session",
        help="Multiples of 8 run faster on most hardware.",
    )
    return align


def _switches(kind: str | None) -> tuple[bool, bool]:
    """Whether a budget may merge tokens, and leave out whole halves of blocks."""
    if kind is None:
        return True, True
    merging = kind == "params" or st.toggle(
        "Merge tokens",
        value=True,
        key="budget-tokens",
        bind=BIND,
        persist_state="session",
        help="Patches that look alike to the model become one token, so that later blocks have fewer to "
        "compute. The budget finds where, and how many.",
    )
    shallower: bool = st.toggle(
        "Leave out whole attentions and MLPs",
        value=True,
        key="budget-depth",
        bind=BIND,
        persist_state="session",
        help="The mean of what such a part adds stays. The budget does it only where it costs least.",
    )
    return merging, shallower


def _besides_widths(dense: Architecture, budget: Budget | None) -> bool | None:
    """What a model may save besides narrower widths, a switch for each.

    Whether the last block computes only the tokens that the classifier reads: the user is not asked if the
    classifier reads all tokens, or if the model skips the others already, as what is made from it does, too.
    """
    if task_of(dense) == FEATURES:
        return _pooled_alone(dense)
    default = default_skip_unread(budget)
    if dense.pool != "token" or dense.skip_unread:
        return None if default else False
    whole, less = (cost(replace(dense, skip_unread=skip)).macs for skip in (False, True))
    chosen: bool = st.toggle(
        "Skip tokens that the classifier does not read",
        value=default,
        key="skip-unread-budget" if default else "skip-unread",
        bind=BIND,
        persist_state="session",
        help="After the last block the classifier reads only its own token. Leaving the others out of "
        f"that block saves {100 * (whole - less) / whole:.1f} % of the MACs and changes no prediction."
        + (" A budget with room for all tokens keeps them." if default else ""),
    )
    return None if chosen and default else chosen


def _pooled_alone(dense: Architecture) -> bool | None:
    """Whether only the pooled feature of a model without a classifier is to stay; None: patch tokens, too."""
    if dense.pool != "token" or dense.skip_unread:
        return None
    whole, less = (cost(replace(dense, skip_unread=skip)).macs for skip in (False, True))
    chosen: bool = st.toggle(
        "Keep the pooled feature alone",
        key="pooled-alone",
        bind=BIND,
        persist_state="session",
        help="The model has no classifier, so its patch tokens are features, too. Where only the pooled "
        f"feature is used, leaving them out of the last block saves {100 * (whole - less) / whole:.1f} % of "
        "the MACs.",
    )
    return chosen or None


def locked() -> None:
    """The heads locked on the Heads page: locks hold whatever is chosen here."""
    said = head_locks.sentence()
    if said:
        with st.container(horizontal=True, vertical_alignment="center", key="locked"):
            st.markdown(f":material/lock: {said}.", width="content")
            st.button("Clear", key="clear-locks", on_click=head_locks.clear)
            feedback.link("heads", "Heads", ":material/hub:")


def _besides(method: str, ratios: Ratios) -> tuple[str | None, bool]:
    """What may go with the method: heads removed first by another criterion, and a refit afterwards."""
    chosen, heads_by, compensate = METHODS[method], None, False
    removes_heads = not replace(Ratios(), heads=ratios.heads).removes_nothing
    if removes_heads and chosen.heads_first:
        ranking = [name for name, criterion in CRITERIA.items() if "heads" in criterion.ranks]
        named = {name: CRITERIA[name].title for name in ranking}
        heads_by = st.selectbox(
            "Heads removed first by",
            ranking,
            index=None if chosen.ranks_heads else ranking.index("taylor"),
            format_func=named.__getitem__,
            placeholder="The method itself",
            key="heads-by-chooses" if chosen.ranks_heads else "heads-by",
            bind=BIND,
            persist_state="session",
            help="The method then works inside the heads that stay.",
        )
    if chosen.chooses:
        compensate = st.toggle(
            "Compensate",
            key="compensate",
            bind=BIND,
            persist_state="session",
            help="Refit the layers that read what was removed, by least squares. Published methods do not.",
        )
    return heads_by, compensate
