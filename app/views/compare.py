"""Page 5: before and after, in numbers and in pictures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import streamlit as st
import torch
from PIL.Image import Image

from analysis.cost import cost
from analysis.evaluate import Evaluation
from analysis.latency import Percentiles, bench, torch_runner
from analysis.models import LoadedModel
from analysis.rollout import FUSIONS
from app import charts, controls, looking, pictures, results, session, words
from app.looking import Look
from app.results import Finished, Run
from pruning.inputs import Progress

BATCHES = (1, 8)
FLIPS = 14  # thumbnails shown
SHOWN = 40  # runs in the scatter, the newest
SIDE = 112  # pixels of a thumbnail


def show() -> None:
    """The page."""
    st.header("Compare", anchor=False)
    run = controls.pick_run("compare-run")
    if run is None:
        return
    outcome = run.outcome
    left, right = st.columns([3, 2], gap="large")
    with left, st.container(key="table"):
        st.table(_table(run), border="horizontal")
        st.caption(
            f"{outcome.when.capitalize()}. Accuracy on {words.count(outcome.after.images)} test images of "
            f"{Path(outcome.data).name}; intervals are 95 % (Wilson)."
        )
    with right:
        _latency(run)
    flips = len(outcome.agreement.flips)
    picture, changed, others = st.tabs(
        ["Rollout before and after", f"{words.count(flips)} predictions changed", "All runs"]
    )
    with picture:
        _same_image(outcome)
    with changed:
        _flips(outcome)
    with others:
        _all_runs(outcome)


def _table(run: Run) -> pd.DataFrame:
    outcome = run.outcome
    before, after = outcome.before, outcome.after
    dense, small = cost(outcome.dense.model.arch), cost(outcome.pruned.model.arch)
    rows = {
        "Top-1": (
            words.percent(before.top1),
            words.percent(after.top1),
            words.points(before.top1, after.top1),
        ),
        "95 % interval": (_interval(before), _interval(after), ""),
        "Top-5": (
            words.percent(before.top5),
            words.percent(after.top5),
            words.points(before.top5, after.top5),
        ),
        "Agreement with dense": ("", words.percent(outcome.agreement.share), ""),
        "Parameters": (
            words.count(dense.params),
            words.count(small.params),
            words.change(dense.params, small.params),
        ),
        "Compute, GMACs": (
            f"{dense.gmacs:,.4f}",
            f"{small.gmacs:,.4f}",
            words.change(dense.macs, small.macs),
        ),
        "Size, float32": (
            words.megabytes(dense.bytes),
            words.megabytes(small.bytes),
            words.change(dense.bytes, small.bytes),
        ),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["Before", "After", "Change"])


def _interval(result: Evaluation) -> str:
    return f"{100 * result.top1_low:.1f} to {100 * result.top1_high:.1f} %"


def _latency(run: Run) -> None:
    st.subheader("Latency", anchor=False)
    threads = torch.get_num_threads()
    if not run.timings:
        sizes = " and ".join(map(str, BATCHES))
        st.caption(f"Both models take turns, {threads} threads, batches of {sizes}.")
    if st.button(
        "Measure again" if run.timings else "Measure latency", icon=":material/timer:", key="measure-latency"
    ):
        with session.progress_bar() as progress:
            _measure(run, progress)
        st.rerun()
    if not run.timings:
        return
    rows = {}
    for batch, timing in run.timings.items():
        rows[f"batch {batch}, before"] = _row(timing.b_ms)
        rows[f"batch {batch}, after"] = _row(timing.a_ms)
    with st.container(key="latency"):
        st.table(
            pd.DataFrame.from_dict(rows, orient="index", columns=["p10", "p50", "p90"]), border="horizontal"
        )
        for batch, timing in run.timings.items():
            st.markdown(
                f"Batch {batch}: **{timing.speedup:.2f}×**, {timing.verdict} · {threads} threads, CPU"
            )


def _measure(run: Run, progress: Progress) -> None:
    arch = run.outcome.dense.model.arch
    run.timings = bench(
        torch_runner(run.outcome.pruned.model),
        torch_runner(run.outcome.dense.model),
        (arch.in_channels, *arch.image_size),
        BATCHES,
        progress=lambda share: progress("Timing both models in turns", share),
    )


def _row(times: Percentiles) -> list[str]:
    return [words.milliseconds(value) for value in (times.p10, times.p50, times.p90)]


def _all_runs(outcome: Finished) -> None:
    """All runs that start from the same dense model and test on the same images."""
    like = [run for run in results.runs()[-SHOWN:] if run.outcome.is_like(outcome)]
    points = [charts.Point("dense", cost(outcome.dense.model.arch).gmacs, outcome.before, dense=True)]
    points += [
        charts.Point(f"run {run.number}", cost(run.outcome.arch).gmacs, run.outcome.after) for run in like
    ]
    st.plotly_chart(charts.scatter(points), config=charts.CONFIG, key="runs-scatter")


def _look(outcome: Finished, number: int) -> Look:
    """Test image `number` of a run."""
    test = outcome.tested()
    key = (outcome.run.folder, "test", number)
    return Look(test.item_name(number), test.image(number), test.label(number), key)


def _same_image(outcome: Finished) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="rollout-choice"):
        number = looking.pick_number("compare-image", outcome.after.images)
        fuse = st.selectbox(
            "Heads joined by", list(FUSIONS), key="compare-fuse", width=150, persist_state="session"
        )
    look = _look(outcome, number)
    photo, before, after = st.columns(3, gap="medium")
    crop = pictures.enlarge(outcome.dense.preprocess.crop(look.image), 300)
    with photo:
        st.image(crop, width="stretch", alt="the image as the models see it")
        st.caption(f"{_name(outcome, outcome.after.labels[number])} · {look.name}")
    for column, title, loaded, result in (
        (before, "before", outcome.dense, outcome.before),
        (after, "after", outcome.pruned, outcome.after),
    ):
        with column:
            st.image(_rollout(look, loaded, crop, fuse), width="stretch", alt=f"rollout {title} pruning")
            said = _name(outcome, result.predictions[number])
            st.caption(f"Rollout {title}: **{said}**, {words.percent(result.confidences[number])}")


def _rollout(look: Look, loaded: LoadedModel, crop: Image, fuse: str) -> Image:
    values = looking.rollout(look, fuse, 0.0, loaded=loaded)[looking.row_of(loaded)]
    return pictures.overlay(crop, values.numpy(), looking.style())


def _flips(outcome: Finished) -> None:
    agreement = outcome.agreement
    lost, gained = len(agreement.lost), len(agreement.gained)
    if not agreement.flips:
        st.caption("Both models say the same about every test image.")
        return
    kinds = {
        "lost": (f"Lost ({lost:,})", agreement.lost),
        "gained": (f"Gained ({gained:,})", agreement.gained),
        "all": (f"All ({len(agreement.flips):,})", agreement.flips),
    }
    kind = st.segmented_control(
        "Which",
        list(kinds),
        format_func=lambda kind: kinds[kind][0],
        default="all",
        required=True,
        key="flips-kind",
        label_visibility="collapsed",
        help="Lost: only the dense model was right. Gained: only the pruned model is.",
        persist_state="session",
    )
    _thumbnails(outcome, kinds[kind][1][:FLIPS])


def _thumbnails(outcome: Finished, numbers: tuple[int, ...]) -> None:
    with st.container(horizontal=True, key="flips"):
        for number in numbers:
            before, after = outcome.before.predictions[number], outcome.after.predictions[number]
            change = f"{_name(outcome, before)} → {_name(outcome, after)}"
            image = pictures.thumbnail(_look(outcome, number).image, outcome.dense.preprocess)
            st.image(image, caption=f"#{number} {change}", width=SIDE, alt=change)
    st.caption("Number of the image, prediction before → after." if numbers else "None.")


def _name(outcome: Finished, index: int) -> str:
    return outcome.tested().classes[index]
