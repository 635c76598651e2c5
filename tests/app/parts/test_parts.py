"""What pages are made of: pictures, charts, words and uploads."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from analysis.measure.cost import cost
from analysis.models.load import load
from app import wording
from app.parts import charts, pictures
from app.state import uploads
from pruning.budget.allocate import Budget
from pruning.cut.ratios import Ratios
from pruning.jobs.prune_job import Job
from pruning.runs import metrics


def test_curves_of_one_training_after_the_other_go_on() -> None:
    points = [("a", 10, 1.0), ("a", 20, 0.5), ("b", 10, 0.4), ("b", 30, 0.3)]
    told = metrics.Metrics(tuple(metrics.Point(w, s, 0.0, 1, {"loss": v, "top1": v}) for w, s, v in points))
    figure: Any = charts.curves(told, 0.9)
    assert [list(trace.x) for trace in figure.data] == [[10, 20, 30, 50]] * 2
    assert list(figure.data[1].y) == [100, 50, 40, 30]
    assert figure.layout.shapes[0].y0 == 90
    assert list(figure.data[0].customdata) == ["a", "a", "b", "b"]
    pulled = [("a", 10, {"loss": 9.0, "task_loss": 1.0}), ("a", 20, {"loss": 90.0, "task_loss": 0.5})]
    pulled += [("b", 0, {"top1": 0.5}), ("b", 20, {"loss": 0.4})]
    told = metrics.Metrics(tuple(metrics.Point(what, step, 0.0, 1, values) for what, step, values in pulled))
    figure = charts.curves(told, None)
    assert [list(trace.x) for trace in figure.data] == [[10, 20, 40], [20]]
    assert list(figure.data[0].y) == [1.0, 0.5, 0.4]  # without the pull, which only grows
    assert charts.curves(metrics.Metrics(), 0.9) is None


def test_a_new_estimate_takes_less_than_100_ms() -> None:
    dense = load("demo").model.arch
    job = Job("demo", "demo")
    spent = []
    for _ in range(3):  # processor time, and the best of three: other work may share the machine
        began = time.process_time()
        cost(job.target(dense))
        charts.widths(dense, dense)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.1


def test_overlay_shows_the_highest_value_in_the_last_colour() -> None:
    values = np.zeros((2, 3), dtype=np.float32)
    values[0, 2] = 5
    style = pictures.Style("grey", opacity=1.0, smooth=False)
    shown = np.asarray(pictures.overlay(Image.new("RGB", (30, 20)), values, style))
    expected = np.zeros((20, 30, 3), dtype=np.uint8)
    expected[:10, 20:] = 255
    np.testing.assert_array_equal(shown, expected)


def test_overlay_without_opacity_is_the_photo() -> None:
    photo = Image.new("RGB", (30, 20), (9, 80, 200))
    values = np.eye(2, dtype=np.float32)
    assert pictures.overlay(photo, values, pictures.Style(opacity=0.0)).getcolors() == photo.getcolors()


@pytest.mark.parametrize("palette", pictures.PALETTES)
def test_palettes_run_from_first_to_last_anchor(palette: str) -> None:
    ends = pictures.colour(np.array([[0.0, 1.0]], dtype=np.float32), palette)
    assert [bytes(end).hex() for end in ends[0]] == [pictures.PALETTES[palette][i] for i in (0, -1)]


def test_grid_has_a_cell_for_every_head_of_uneven_blocks() -> None:
    plane = np.eye(4, dtype=np.float32)
    grid = pictures.grid(Image.new("RGB", (64, 64)), [[plane] * 3, [plane]], pictures.Style(), (400, 300))
    assert grid.heads == (3, 1)
    (wide, high), gap = grid.cell, pictures.GAP
    assert grid.image.size == (2 * wide + gap, 3 * high + 2 * gap)
    empty = np.asarray(grid.image)[-1, -1]
    assert empty[3] == 0  # where block 1 has no head, nothing is drawn


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Job("demo", "demo"), "nothing"),
        (Job("demo", "demo", preset="snp-deit-tiny"), "preset snp-deit-tiny"),
        (Job("demo", "demo", budget=Budget(gmacs=0.92)), "budget 0.92 GMACs"),
        (Job("demo", "demo", ratios=Ratios(mlp=0.3), tokens=8), "MLP 30 %, 8 tokens merged a block"),
        (Job("demo", "demo", tokens=(0, 4, 6)), "0 to 6 tokens merged a block"),
        (Job("demo", "demo", tokens=0), "no tokens merged"),
    ],
)
def test_removed_in_words(job: Job, expected: str) -> None:
    assert wording.removed(job) == expected


def test_titles_tell_what_was_done_besides() -> None:
    job = Job("demo", "demo", "l2", ratios=Ratios(heads=0.5, qk=0.2), heads_by="l1", compensate=True)
    assert wording.describe(job) == "L2 magnitude, pairs 20 %, heads 50 %, heads by L1 magnitude, compensated"
    assert wording.describe(replace(job, heads_by=None, recovery=())).endswith("compensated and recovery")


def test_names_from_elsewhere_are_not_markdown() -> None:
    assert wording.plain("a_b*c.jpg [x] $y$") == r"a\_b\*c.jpg \[x\] \$y\$"


def test_names_that_are_alike_are_told_apart_by_their_numbers() -> None:
    assert wording.told_apart(("crane", "ring", "crane")) == ("crane (0)", "ring", "crane (2)")


def test_uploads_of_equal_names_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Upload(io.BytesIO):
        name = "../weights.pth"
        size = 3

    monkeypatch.setattr("app.state.memo.st.session_state", {})
    first, second = (uploads.save_upload(Upload(content), "weights") for content in (b"one", b"two"))
    assert first != second
    assert Path(first).read_bytes() == b"one"
    assert Path(first).is_relative_to(uploads.workspace())
    Upload.size = 2**30 + 2**20  # as when it is sent past the widget
    with pytest.raises(ValueError, match=r"has 1,025.0 MB, but at most 1,024 MB are read"):
        uploads.save_upload(Upload(b"three"), "weights")
