"""One head on the Heads page: its lock, its numbers, similar heads, its maps, and a what-if without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pandas as pd
import streamlit as st

from analysis import measure
from analysis.attention import pictures
from analysis.gates import without_heads
from analysis.heads import head_names, nearest
from analysis.measure import Evaluation, agreement
from app import wording
from app.parts import trial
from app.parts.keys import keys
from app.progress_bar import progress_bar
from app.state import head_locks, measured, memo, session, session_runs, viewed_image
from app.state.viewed_image import ViewedImage
from pruning.criteria import HEAD_MEASURES, HeadReading
from pruning.cut import Head, HeadLocks
from pruning.evaluation import evaluate_model
from pruning.jobs import Job, TrialJob
from pruning.progress import Progress

UNITS = {
    "taylor": "nats",
    "ablation": "nats",
    "integrated": "nats",
    "entropy": "bits",
    "distance": "patches",
}  # of measures that are no shares
NEIGHBOURS = 5
SHOWN = 3  # images that a head's maps are drawn on
FEW = 60  # loaded images that these are taken from
TRY_ON = TrialJob.images  # test images of a what-if, as on the Prune page
AT_ONCE = 3.0  # seconds that a what-if may take in the page; one that takes longer is a run
FLIPS = 6  # thumbnails of changed predictions
SIDE = 200  # pixels of a map
THUMBNAIL = 96


def pick(head: Head) -> None:
    """Show this head from now on."""
    st.session_state["heads-block"], st.session_state["heads-head"] = head


def chosen() -> Head:
    """The head that is shown, within the blocks and heads of the loaded model.

    Blocks without attention are passed over, in the direction in which the user goes.

    Raises:
        NothingChosen: no block of the model has heads.
    """
    blocks, state = session.model().model.arch.blocks, st.session_state
    wanted = min(state.setdefault("heads-block", len(blocks) // 2), len(blocks) - 1)
    with_heads = [index for index, widths in enumerate(blocks) if widths.heads]
    if not with_heads:
        raise session.NothingChosen(
            "No block of this model has attention. Pick another model in the sidebar."
        )
    onward = [index for index in with_heads if index >= wanted] or with_heads[-1:]
    back = [index for index in with_heads if index <= wanted] or with_heads[:1]
    block = back[-1] if wanted < state.get("heads-block shown", -1) else onward[0]
    state["heads-block shown"] = block
    head = min(st.session_state.setdefault("heads-head", 0), blocks[block].heads - 1)
    pick((block, head))
    return block, head


def controls(head: Head) -> None:
    """Which head is shown, and its lock."""
    blocks = session.model().model.arch.blocks
    left, right = st.columns(2)
    left.number_input("Block", 0, len(blocks) - 1, key="heads-block", persist_state="session")
    right.number_input("Head", 0, blocks[head[0]].heads - 1, key="heads-head", persist_state="session")
    keys.offer_heads(head, tuple(widths.heads for widths in blocks), pick)
    offered = head_locks.allowed_locks(head)
    key = f"lock-{head_locks.model_id()}-{head[0]}-{head[1]}"
    st.session_state[key] = head_locks.lock_of(head)
    st.segmented_control(
        "Lock for pruning",
        offered,
        format_func=head_locks.LABELS.__getitem__,
        required=True,
        key=key,
        on_change=_set_lock,
        args=(head, key),
        help="Every method on the Prune page obeys this lock, whatever the head's score and the ratios.",
    )
    if head_locks.REMOVE not in offered:
        st.caption("No other head of this block would be left, so this one has to stay.")


def _set_lock(head: Head, key: str) -> None:
    head_locks.set_lock(head, st.session_state[key])


def numbers(head: Head, reading: HeadReading) -> None:
    """The head's value by every criterion, and its rank among all heads."""
    place = head_names(session.model().model.arch).index(head)
    rows = {HEAD_MEASURES[name].title: _number(reading, name, place) for name in reading.values}
    with st.container(key="head-numbers"):
        st.table(pd.DataFrame.from_dict(rows, "index", columns=["Value", "Rank"]), border="horizontal")
    st.caption(
        f"Rank 1 of {len(reading.values['snp'])} is the most important head. Decide by Ablation, which "
        "measures how the loss changes; Taylor and Integrated gradients estimate it. Criteria without labels "
        "are a guess, and those without a rank only describe heads."
    )


def _number(reading: HeadReading, name: str, place: int) -> tuple[str, str]:
    values = reading.importance(name)
    rank = 1 + sum(value > values[place] for value in values)
    ranks = HEAD_MEASURES[name].important
    unit = wording.plain(UNITS.get(name, ""))
    return f"{reading.values[name][place]:.3g} {unit}", wording.count(rank) if ranks else "–"


def neighbours(head: Head, reading: HeadReading, kind: str) -> None:
    """Buttons that lead to the most similar heads."""
    names = head_names(session.model().model.arch)
    found = nearest(reading.alike[kind], names.index(head), NEIGHBOURS)
    st.caption("Most similar heads" if found else "No other head is similar.")
    with st.container(horizontal=True, gap="xsmall", key="neighbours"):
        for number, (other, value) in enumerate(found):
            block, index = names[other]
            st.button(
                f"{block}.{index} · {value:.2f}",
                key=f"neighbour-{number}",
                on_click=pick,
                args=((block, index),),
                help=f"Block {block}, head {index}",
            )


# ---- maps


def images_shown(photos: Sequence[ViewedImage]) -> list[ViewedImage]:
    """The images that a head's maps are drawn on: the user's photos, or some of the loaded images."""
    if photos:
        return list(photos[:SHOWN])
    few = session.few_images(FEW)
    start = SHOWN * st.session_state.get("heads-images", 0)
    numbers = [(start + step) % len(few) for step in range(min(SHOWN, len(few)))]
    data = session.choice().data
    return [
        ViewedImage(few.item_name(i), few.image(i), few.label(i), (data, "few", few.item_name(i)))
        for i in numbers
    ]


def maps(head: Head, photos: Sequence[ViewedImage]) -> None:
    """Where a head looks in a few images."""
    (block, index), loaded = head, session.model()
    style, row = viewed_image.style(), viewed_image.prediction_row(loaded)
    with st.spinner("Reading attention …", show_time=False):
        shown = images_shown(photos)
        maps_shown = [viewed_image.maps(image, loaded).blocks[block][index, row].numpy() for image in shown]
    with st.container(key="head-maps"):
        columns = st.columns(SHOWN)
    for image, values, column in zip(shown, maps_shown, columns, strict=False):
        photo = pictures.enlarge(viewed_image.cropped(image, loaded), SIDE)
        picture = pictures.overlay(photo, values, style)
        column.image(picture, alt=f"where block {block}, head {index} looks in {image.name}", width="stretch")
        column.caption(viewed_image.caption(image, session.class_names()))
    if not photos:
        st.button("Other images", icon=":material/refresh:", key="other-images", on_click=_others)


def _others() -> None:
    st.session_state["heads-images"] = st.session_state.get("heads-images", 0) + 1


# ---- what-if


def what_if(head: Head) -> None:
    """Accuracy without the head, and the predictions that change."""
    if session.choice().data is None:
        st.caption("To measure accuracy without the head, pick labelled images in the sidebar.")
        return
    asked = st.button(
        "What if it were removed?",
        icon=":material/science:",
        key="head-what-if",
        help=f"Masks only this head and measures accuracy on {wording.count(_tried())} test images.",
    )
    found = _in_page(head, asked) if _at_once(head) else _by_run(head, asked)
    if found is None:
        st.caption("Only masks this head; the model stays as it is.")
        return
    _show_what_if(*found)


def _tried() -> int:
    """How many test images a what-if is measured on."""
    return min(TRY_ON, session.test_count())


def _at_once(head: Head) -> bool:
    """Whether a what-if is measured in the page: where that is quick, and where no run could do it."""
    loaded = session.model()
    only = loaded.model.arch.blocks[head[0]].heads == 1  # which no pruning removes
    return only or 2 * _tried() * measured.image_seconds(loaded) <= AT_ONCE


def _by_run(head: Head, asked: bool) -> tuple[Evaluation, Evaluation] | None:
    """What a run has found, which is started if it is `asked` for."""
    chosen = session.choice()
    locks = HeadLocks(remove=(head,))  # any method masks it; this one reads no images
    named = Job(chosen.model, chosen.data or "", "l2", chosen.weights, limit=chosen.limit, locks=locks)
    job = replace(named, reading=chosen.reading)
    if asked:
        session_runs.begin(TrialJob(job))
        st.rerun()  # so that the sidebar shows it too
    known = trial.newest(job)
    if known is None:
        return None
    _, found = known
    return found.before, found.after


def _in_page(head: Head, asked: bool) -> tuple[Evaluation, Evaluation] | None:
    """What was measured in this session, which is done now if it is `asked` for."""
    key = (session.choice(), head)
    if asked:
        with progress_bar() as progress:
            memo.remember("head what-if", key, partial(_masked, head, progress))
    found: tuple[Evaluation, Evaluation] | None = memo.recall("head what-if", key)
    return found


def _masked(head: Head, progress: Progress) -> tuple[Evaluation, Evaluation]:
    loaded, tested = session.model(), session.test_set(TRY_ON)
    before = memo.remember(
        "few",
        session.choice(),
        lambda: evaluate_model(loaded, tested, "Evaluating the dense model", progress),
    )
    masked = replace(loaded, model=without_heads(loaded.model, [head]))
    what = "Evaluating without the head"
    return before, evaluate_model(masked, tested, what, progress, dense=loaded, reference=before)


def _show_what_if(before: Evaluation, after: Evaluation) -> None:
    both = agreement(before, after)
    with st.container(key="head-outcome"):
        st.markdown(
            f"{wording.accuracy_name(after)} is **{wording.percent(after.top1)}** without it "
            f"({wording.interval(after)}) and {wording.percent(before.top1)} with it. "
            f"{wording.percent(both.share)} of the predictions stay the same. "
            f"{wording.likeness_sentence(after)}"
        )
        if not both.flips:
            st.caption("No prediction changes.")
            return
        many = f"{len(both.flips)} predictions change" if len(both.flips) > 1 else "One prediction changes"
        st.caption(f"{many}: {len(both.lost)} from right to wrong, {len(both.gained)} from wrong to right.")
        few, class_names = session.tried_images(TRY_ON), session.class_names()
        with st.container(horizontal=True, key="flips"):
            for index in both.flips[:FLIPS]:
                names = [_called(one, index, class_names) for one in (before, after)]
                st.image(
                    pictures.thumbnail(few.image(index), session.model().preprocess, THUMBNAIL),
                    caption=wording.plain(f"{names[0]} → {names[1]}"),
                    alt=f"predicted {names[0]} with the head and {names[1]} without it",
                    width=THUMBNAIL,
                )


def _called(result: Evaluation, index: int, class_names: Sequence[str]) -> str:
    """The class that was predicted for an image, or the image that was found nearest to it."""
    number = result.predictions[index]
    if result.measure == measure.NEIGHBOURS or number >= len(class_names):
        return f"{'image' if result.measure == measure.NEIGHBOURS else 'class'} {number}"
    return class_names[number]
