"""Tables of devices: read strictly, and budgets solved on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.vit import Architecture, BlockWidths
from pruning.budget import (
    Budget,
    HalfLoss,
    MergeLoss,
    Sensitivities,
    allocate_predicted,
    saved_by_blocks,
    schedule,
)
from pruning.budget.curves import BlockCurves, Curve
from pruning.jobs import Job
from pruning.jobs.solve_budget import solve, time_widths
from pruning.kit.device import DeviceTable, read_device
from pruning.kit.layout import entries, narrowed
from tests.support.budgets import DEIT_TINY, synthetic
from tests.support.devices import made_up, model_ms, price

CURVES = synthetic(DEIT_TINY)


def solved(table: DeviceTable, ms: float, batch: int = 1, int8: bool = False) -> Any:
    return allocate_predicted(
        DEIT_TINY, CURVES, Budget(ms=ms, batch=batch), table.table(DEIT_TINY, batch, int8)
    )


def test_a_table_is_written_and_read_back(tmp_path: Path) -> None:
    table = made_up(DEIT_TINY, price(), int8=True)
    assert DeviceTable.from_json(table.to_json()) == table
    file = tmp_path / "device.json"
    file.write_text(table.to_json())
    assert read_device(file) == table
    assert table.batches == (1, 8) and table.precisions == (False, True)


def without_probes(table: DeviceTable) -> DeviceTable:
    return replace(table, entries=tuple(e for e in table.entries if not e.name.startswith("probe")))


@pytest.mark.parametrize("share", [0.85, 0.7, 0.55])
@pytest.mark.parametrize("mlp", [1.0, 5.0])
@pytest.mark.parametrize(("batch", "scale"), [(1, 1.0), (8, 7.0)])
def test_a_budget_is_met_on_the_device(share: float, mlp: float, batch: int, scale: float) -> None:
    """Whole models take longer there than their blocks; the probes of the kit correct the sum."""
    block = price(mlp)
    ms = share * model_ms(DEIT_TINY, block) * scale
    found = solved(made_up(DEIT_TINY, block, noise=0.02), ms, batch)
    true = model_ms(found.arch, block) * scale
    assert found.got <= ms and 0.95 * ms <= true <= 1.05 * ms
    assert found.device == "board" and found.sentence.endswith(" ms, predicted for board")


@pytest.mark.parametrize("share", [0.7, 0.5])
@pytest.mark.parametrize(("tokens", "depth"), [(True, False), (False, True), (True, True)])
def test_a_budget_may_merge_tokens_and_leave_out_halves(share: float, tokens: bool, depth: bool) -> None:
    """Where that does less damage than narrow widths; the time is still predicted."""
    merges = [MergeLoss(schedule(DEIT_TINY, (3, 4), part), 1e-6) for part in (0.3, 0.6)]
    halves = (HalfLoss(5, 0, 1e-6), HalfLoss(7, 1, 1e-6))
    cheap = replace(CURVES, tokens=tuple(merges), halves=halves)
    block = price()
    ms = share * model_ms(DEIT_TINY, block)
    budget = Budget(ms=ms, tokens=tokens, depth=depth)
    table = made_up(DEIT_TINY, block, noise=0.02).table(DEIT_TINY, 1)
    found = allocate_predicted(DEIT_TINY, cheap, budget, table)
    assert found.arch.merges == tokens
    assert all(one.heads and one.mlp for one in found.arch.blocks) != depth
    assert found.got <= ms and 0.95 * ms <= model_ms(found.arch, block) <= 1.05 * ms


def test_what_blocks_save_adds_up_to_what_a_model_saves() -> None:
    """On a device that does nothing but compute its blocks, one after the other."""
    block, rest = price(), 3.0
    table = without_probes(made_up(DEIT_TINY, block)).table(DEIT_TINY, 1)
    blocks = list(narrowed(DEIT_TINY, 0.5, 8).blocks)
    blocks[3:5] = (replace(one, merge=40) for one in blocks[3:5])
    blocks[7], blocks[9] = replace(blocks[7], mlp=0), BlockWidths(0, 0, 0, blocks[9].mlp)
    for arch in (narrowed(DEIT_TINY, 0.9, 8), replace(DEIT_TINY, blocks=tuple(blocks))):
        whole, small = (model_ms(one, block, 1.0, rest, curved=0.0) for one in (DEIT_TINY, arch))
        assert saved_by_blocks(DEIT_TINY, arch, table) == pytest.approx(whole - small, rel=1e-3)


def dearer(structures: tuple[str, ...]) -> Sensitivities:
    """The curves with these structures far more sensitive, so that budgets take from the others."""

    def raised(curve: Curve, name: str) -> Curve:
        return Curve(curve.widths, tuple(100 * kl for kl in curve.kl)) if name in structures else curve

    names = ("qk", "v", "mlp")
    return replace(
        CURVES,
        blocks=tuple(BlockCurves(*(raised(getattr(c, n), n) for n in names)) for c in CURVES.blocks),
    )


@pytest.mark.parametrize("share", [0.8, 0.65])
@pytest.mark.parametrize("structures", [("mlp",), ("qk", "v")])
def test_each_structure_is_corrected_by_itself(share: float, structures: tuple[str, ...]) -> None:
    """Where query-key pairs cost twice as much in a model as in a block alone, and neurons a little less."""
    inside = lambda b: price(0.9)(b) + 0.5 * b.qk / 64
    table = made_up(DEIT_TINY, price(), noise=0.02, in_models=inside).table(DEIT_TINY, 1)
    ms = share * model_ms(DEIT_TINY, inside)
    found = allocate_predicted(DEIT_TINY, dearer(structures), Budget(ms=ms), table)
    assert 0.97 * ms <= model_ms(found.arch, inside) <= 1.03 * ms


def test_a_file_of_an_earlier_version_is_read_and_leaves_tokens_and_halves() -> None:
    data = made_up(DEIT_TINY, price()).to_data() | {"version": 1}
    plain = [one for one in data["entries"] if "merging" not in one["name"] and one["tokens"] is None]
    plain = [one for one in plain if one["of"] is None or one["widths"][0]["heads"] * one["widths"][0]["mlp"]]
    data["entries"] = [{name: value for name, value in one.items() if name != "tokens"} for one in plain]
    cheap = replace(
        CURVES,
        tokens=(MergeLoss(schedule(DEIT_TINY, (3, 4), 0.5), 1e-6),),
        halves=(HalfLoss(5, 0, 1e-6),),
    )
    table = DeviceTable.from_data(data).table(DEIT_TINY, 1)
    ms = 0.7 * model_ms(DEIT_TINY, price())
    found = allocate_predicted(DEIT_TINY, cheap, Budget(ms=ms), table).arch
    assert not found.merges and all(one.heads and one.mlp for one in found.blocks)


def test_without_whole_models_the_sum_of_blocks_misses() -> None:
    """What the correction is for."""
    block, table = price(), made_up(DEIT_TINY, price())
    bare = without_probes(table)
    ms = 0.6 * model_ms(DEIT_TINY, block)
    assert table.table(DEIT_TINY, 1).truth and not bare.table(DEIT_TINY, 1).truth
    assert abs(model_ms(solved(bare, ms).arch, block) - ms) > abs(
        model_ms(solved(table, ms).arch, block) - ms
    )


def test_a_device_on_which_nothing_smaller_is_faster_is_refused() -> None:
    table = made_up(DEIT_TINY, price())
    slow = tuple(
        replace(e, ms={batch: tuple(10 * one for one in times) for batch, times in e.ms.items()})
        if e.name.startswith("probe")
        else e
        for e in table.entries
    )
    with pytest.raises(ValueError, match="on board none of the 10 smaller models was faster"):
        replace(table, entries=slow).table(DEIT_TINY, 1)


def test_a_device_where_neurons_are_slow_keeps_more_of_the_attention() -> None:
    """The same share of either device's time: where neurons cost five times as much, they save most."""

    def attention(mlp: float) -> int:
        ms = 0.7 * model_ms(DEIT_TINY, price(mlp))
        return sum(b.qk + b.v for b in solved(made_up(DEIT_TINY, price(mlp)), ms).arch.blocks)

    assert attention(5.0) > 1.1 * attention(1.0)


def test_int8_has_times_of_its_own() -> None:
    table = made_up(DEIT_TINY, price(), int8=True)
    ms = 0.4 * model_ms(DEIT_TINY, price())
    found = solved(table, ms, int8=True)
    assert 0.95 * ms <= 0.5 * model_ms(found.arch, price()) <= 1.05 * ms
    with pytest.raises(ValueError, match="not timed in int8: make the kit with --int8"):
        made_up(DEIT_TINY, price()).table(DEIT_TINY, 1, True)


def test_a_smaller_model_given_to_the_kit_is_found_by_its_architecture() -> None:
    small = narrowed(DEIT_TINY, 0.6, 8)
    table = made_up(DEIT_TINY, price(), [("mine", small)])
    times = table.times(small)
    assert times is not None and times[1][0] == pytest.approx(model_ms(small, price()))
    assert table.times(narrowed(DEIT_TINY, 0.9, 8)) is None
    assert len(table.table(DEIT_TINY, 1).truth) == 11


def test_a_job_is_solved_on_its_device(tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    file.write_text(made_up(DEIT_TINY, price(), int8=True).to_json())
    ms = 0.4 * model_ms(DEIT_TINY, price())
    budget = Budget(ms=ms)
    job = Job("m", "d", budget=budget, align=8, device=str(file), runtime="onnx-int8")
    table = time_widths(job, DEIT_TINY)
    assert table is not None and table.device == "board"
    found = solve(job, DEIT_TINY, CURVES, table=table)
    assert found == solve(job, DEIT_TINY, CURVES) and 0.98 * ms <= found.got <= ms
    assert Job.from_json(job.to_json()) == job
    assert f"--runtime onnx-int8 --device {file}" in job.command()
    with pytest.raises(ValueError, match="a budget for this model must be from"):
        time_widths(replace(job, budget=Budget(ms=0.1)), DEIT_TINY)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"runtime": "tpu"}, "runtime must be one of torch, onnx, onnx-int8"),
        ({"runtime": "torch", "device": "d.json"}, "a device is timed in ONNX Runtime"),
        ({"budget": Budget(gmacs=1.0), "device": "d.json"}, "belongs to a budget in ms only"),
        ({"budget": None, "runtime": "onnx"}, "belongs to a budget in ms only"),
    ],
)
def test_what_goes_with_no_budget_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Job(**{"model": "m", "data": "d", "budget": Budget(ms=5.0), **changed})


OTHERS: list[Architecture] = [
    replace(DEIT_TINY, num_classes=10),
    replace(DEIT_TINY, blocks=DEIT_TINY.blocks[:11]),
    narrowed(DEIT_TINY, 0.5, 8),
]


@pytest.mark.parametrize("other", OTHERS, ids=["classes", "depth", "widths"])
def test_the_table_of_another_model_is_refused(other: Architecture) -> None:
    with pytest.raises(ValueError, match="the table of board was measured for another model: make a kit"):
        made_up(DEIT_TINY, price()).table(other, 1)


def test_a_batch_that_was_not_timed_is_refused() -> None:
    with pytest.raises(ValueError, match="board was timed at batch 1, 8, not at 4"):
        made_up(DEIT_TINY, price()).table(DEIT_TINY, 4)


def damaged(edit: Any) -> str:
    data = made_up(replace(DEIT_TINY, blocks=DEIT_TINY.blocks[:2]), price()).to_data()
    edit(data)
    return json.dumps(data)


def one_with(data: Any, **changed: Any) -> Any:
    return next(one for one in data["entries"] if all(one[name] == value for name, value in changed.items()))


def entry(place: int, **changed: Any) -> Any:
    return lambda data: data["entries"][place].update(changed)


WIDTHS = {"heads": 3, "qk": 64, "v": 64, "mlp": 768}


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda data: data.update(version=9), "later PruneScope"),
        (lambda data: data.pop("kit"), "`kit` is missing"),
        (lambda data: data.update(more=1), "there is no field `more`"),
        (lambda data: data.update(threads=0), "`threads` must be from 1"),
        (lambda data: data.update(rounds=10**6), "`rounds` must be from 1"),
        (lambda data: data.update(device="a\nb"), "`device` must be one line"),
        (lambda data: data.update(device="a" * 999), "`device` must be one line"),
        (lambda data: data.update(entries=[]), "`entries` must be from 1"),
        (lambda data: data.update(architecture="x"), "first of `entries` must be the dense model"),
        (lambda data: data["entries"].append(data["entries"][-1]), "was timed before it"),
        (entry(0, ms={}), "must have the batch sizes"),
        (entry(3, ms={"1": [1.0] * 8}), "must have the batch sizes of the first"),
        (entry(3, ms={"1": [1.0] * 8, "8": [1.0] * 7}), "must have 8 rounds"),
        (entry(3, ms={"1": [1.0] * 8, "8": [0.0] * 8}), "must be milliseconds above 0"),
        (entry(3, ms={"1": [1.0] * 8, "8": [1e9] * 8}), "must be milliseconds above 0"),
        (entry(3, ms={"1": [1.0] * 8, "0": [1.0] * 8}), "batch sizes in `ms`"),
        (entry(3, ms={"1": ["x"] * 8, "8": [1.0] * 8}), "must be a number"),
        (entry(13, of=None), "must be given"),
        (entry(13, widths=[WIDTHS, WIDTHS]), "must be those of the block"),
        (entry(13, widths=[WIDTHS | {"mlp": 999}]), "must be those of the block"),
        (entry(13, widths=[WIDTHS | {"mlp": -1}]), "mlp"),
        (entry(13, of=WIDTHS | {"mlp": 800}, widths=[WIDTHS | {"mlp": 800}]), "block of the dense model"),
        (entry(0, widths=[]), "must be those of 1 to"),
        (entry(13, tokens=0), "must be at least 1"),
        (entry(13, tokens=98), "belongs to a block that is not narrowed"),
        (entry(0, tokens=98), "belongs to a block that is not narrowed"),
        (
            lambda data: data.update(entries=[*data["entries"], one_with(data, tokens=98)]),
            "was timed before it",
        ),
    ],
)
def test_a_bad_file_is_one_sentence(edit: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "device.json"
    file.write_text(damaged(edit))
    with pytest.raises(ValueError, match=r"device\.json") as error:
        read_device(file)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_number_that_is_not_finite_is_refused() -> None:
    text = damaged(lambda data: None).replace("2.0", "Infinity", 1)
    with pytest.raises(ValueError, match="must be a finite number"):
        DeviceTable.from_json(text)


def test_what_is_timed_stays_small_where_blocks_differ() -> None:
    blocks = tuple(replace(DEIT_TINY.blocks[0], mlp=768 - 8 * i) for i in range(12))
    assert len(entries(replace(DEIT_TINY, blocks=blocks))) < 170
    names = [one.name for one in entries(DEIT_TINY)]
    probes = ["75 %", "50 %", "30 %", "qk 50 %", "v 50 %", "mlp 50 %"]
    probes += ["without attention", "without MLP", "merging", "50 %, merging"]
    assert names[:11] == ["dense", *(f"probe {name}" for name in probes)] and len(names) == 42
