"""The Compare page's latency: a run times the models in turns, and keeps the timings in its folder."""

from __future__ import annotations

from statistics import median

import pandas as pd
import streamlit as st

from app import wording
from app.parts import charts, feedback, run_panel
from app.state import comparison, devices, session_runs, uploads
from app.views.compare import charts as compare_charts
from pruning.jobs import BenchJob, Timings
from pruning.kit import DeviceTable
from pruning.report import ComparedModel, Comparison

BATCHES = (1, 2, 4, 8, 16, 32, 64)
USUAL = (1, 8)


def show(found: Comparison) -> None:
    """The newest timings of these models, and a form that starts a run to time them."""
    sources = [model.source for model in found.models]
    run = comparison.newest_bench(sources)
    if run is not None and run.state != "done":
        run_panel.panel(run, "bench-panel")
    if found.timings is not None:
        _measured(found, found.timings)
    if run is None or not run.active:
        _form(found)
    _devices(found)


def _form(found: Comparison) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="bench"):
        batches = st.multiselect(
            "Batch sizes", BATCHES, USUAL, key="bench-batches", persist_state="session", width=340
        )
        again = "Measure again" if found.timings else "Measure latency"
        if st.button(again, icon=":material/timer:", key="measure-latency", disabled=not batches):
            models = tuple(model.source[:2] for model in found.models)
            reading = found.dense.source.reading
            session_runs.begin(BenchJob(models, tuple(sorted(batches)), reading=reading))
            st.rerun()
    st.caption(
        "On the CPU, the models taking turns, so that other work on this machine slows all of them alike."
    )


def _devices(found: Comparison) -> None:
    """The same models on other devices, as far as benchmark kits have timed them there."""
    st.subheader("On other devices", anchor=False)
    given = st.file_uploader(
        "device.json files of benchmark kits",
        type="json",
        accept_multiple_files=True,
        key="compare-devices",
        max_upload_size=uploads.MAX_UPLOAD_MB["device"],
    )
    with feedback.sentences():
        devices.add(given)
    columns = {devices.name(path): table for path, table in devices.devices().items()}
    if not columns:
        st.caption(
            "`python -m pruning kit` makes a folder that times these models on a Raspberry Pi or a laptop."
        )
        return
    rows = [
        (model, batch, int8)
        for int8 in sorted({int8 for table in columns.values() for int8 in table.precisions})
        for batch in sorted({batch for table in columns.values() for batch in table.batches})
        for model in found.models
    ]
    medians = [
        (model.name, batch, int8, [_median(table, model, batch, int8) for table in columns.values()])
        for model, batch, int8 in rows
    ]
    timed = [row for row in medians if any(one is not None for one in row[3])]
    if not timed:
        st.info("None of these models was timed on the devices: give them to the kit with --against.")
        return
    cells = {
        f"{wording.plain(name)}, batch {wording.count(batch)}{', int8' if int8 else ''}": [
            "" if one is None else wording.milliseconds(one / batch) for one in row
        ]
        for name, batch, int8, row in timed
    }
    medians_shown = pd.DataFrame.from_dict(cells, orient="index", columns=list(map(wording.plain, columns)))
    with st.container(key="devices"):
        st.table(medians_shown, border="horizontal", alt="latency of all models on other devices")
    st.plotly_chart(compare_charts.devices(list(columns), timed), config=charts.CONFIG, key="devices-chart")
    st.caption(
        "Median milliseconds per image in ONNX Runtime, all models of a device in turns. "
        "Models are found by their architecture; an empty cell was not timed there."
    )


def _median(table: DeviceTable, model: ComparedModel, batch: int, int8: bool) -> float | None:
    times = (table.times(model.arch, int8) or {}).get(batch)
    return None if times is None else median(times)


def _measured(found: Comparison, timed: Timings) -> None:
    dense = found.dense
    rows = [_row(model, dense, batch, timed) for batch in sorted(timed.ms) for model in found.models]
    left, right = st.columns([6, 5], gap="medium")
    with left, st.container(key="latency"):
        st.table(pd.DataFrame(rows).set_index("Model"), border="horizontal", alt="latency of all models")
    with right:
        st.plotly_chart(
            compare_charts.latency(
                {
                    b: [(m.name, timed.between(m.source, dense.source, b)) for m in found.models]
                    for b in sorted(timed.ms)
                }
            ),
            config=charts.CONFIG,
            key="latency-chart",
            alt="latency of all models by batch size, median and from p10 to p90",
        )
    rounds = wording.from_to(map(timed.rounds_of, timed.ms))
    torch = wording.plain(timed.torch.partition("+")[0])
    threads = f"{timed.threads} thread{'s' * (timed.threads > 1)}"
    st.caption(
        f"Milliseconds per image, in batches: {rounds} rounds in turns, {threads}, CPU, torch {torch}. "
        "The speed-up is the median over rounds of the dense model's time divided by this model's, with its "
        "95 % interval; a model counts as faster or slower only where that interval excludes 1. p10 to p90 "
        "shows how much single passes scatter. Rounds are added while a model cannot be distinguished from "
        "the dense one, up to eight times the first number."
    )


def _row(model: ComparedModel, dense: ComparedModel, batch: int, timed: Timings) -> dict[str, str]:
    times = timed.of(model.source, batch)
    row = {"Model": f"{wording.plain(model.name)}, batch {batch}"}
    row |= {name: wording.milliseconds(getattr(times, name) / batch) for name in ("p10", "p50", "p90")}
    timing = timed.between(model.source, dense.source, batch)
    return row | {"Speed-up": "" if model is dense else wording.speedup(timing)}
