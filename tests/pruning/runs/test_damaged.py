"""Finished runs with a damaged file: one sentence says what is wrong, and all others are read as before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from analysis.vit import Architecture
from pruning.cli.main import main
from pruning.runs import folder as runs
from pruning.runs.finished import FinishedRun, flaw, is_finished
from tests.support.damage import DAMAGE, FILES
from tests.support.models import ROOT, random_vit

PREVIOUS = ROOT / "tests" / "support" / "previous"

pytestmark = pytest.mark.usefixtures("nothing_hangs")


def is_noticed(file: str, way: str) -> bool:
    """Whether a finished run is not sound after that; its curves, for one, are read on their own."""
    if file in ("metrics.jsonl", "status.json"):
        return file == "status.json" and way != "missing"
    return (file, way) not in {
        ("bundle/report.json", "missing"),
        ("bundle/report.json", "an empty object"),
        ("bundle/plan.json", "missing"),
    }


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of finished runs, two of them alike."""
    place = tmp_path / "runs"
    monkeypatch.setenv("PRUNESCOPE_RUNS", str(place))
    for name, of in (("good", "prune"), ("bad", "prune"), ("heads", "heads"), ("bench", "bench")):
        shutil.copytree(PREVIOUS / of, place / name)
        if (place / name / "bundle").is_dir():
            arch = Architecture.from_json((place / name / "bundle" / "architecture.json").read_text())
            save_file(dict(random_vit(arch).state_dict()), place / name / "bundle" / "model.safetensors")
    return place


@pytest.mark.parametrize("way", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_a_sentence(
    root: Path, file: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGE[way](root / "bad" / file)
    bad, good = runs.read(root / "bad"), runs.read(root / "good")
    assert flaw(good) is None
    said = bad.problem or flaw(bad)
    if not is_noticed(file, way):
        assert said is None
    else:
        assert said is not None and Path(file).name in said
        assert "\n" not in said and len(said) < 400
        assert not is_finished(bad) or FinishedRun(bad).problem == said
    assert main(["runs"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) >= 3 + (root / "bad" / "job.json").is_file()
    assert said is None or (file, way) == ("job.json", "missing") or any(said in line for line in listed)
    out = root.parent / "report.html"
    assert main(["report", str(root / "bad"), "--out", str(out)]) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("predictions", 10**9),
        ("predictions", -1),
        ("labels", 77),
        ("confidences", 7.5),
        ("top1", 55.0),
        ("top1_low", -3.0),
    ],
)
def test_evaluations_that_no_model_can_have(root: Path, name: str, value: float) -> None:
    file = root / "bad" / "evaluations.json"
    data = json.loads(file.read_text())
    if isinstance(data["after"][name], list):
        data["after"][name][0] = value
    else:
        data["after"][name] = value
    file.write_text(json.dumps(data))
    assert "must have shares from 0 to 1 and classes of the" in str(flaw(runs.read(root / "bad")))


@pytest.mark.parametrize("way", [way for way in DAMAGE if way not in ("absurd", "below zero")])
@pytest.mark.parametrize("file", ["bench/timings.json", "heads/heads.json"])
def test_results_of_other_kinds(root: Path, file: str, way: str) -> None:
    run = runs.read(root / file).folder.parent
    assert flaw(runs.read(run)) is None
    DAMAGE[way](root / file)
    assert Path(file).name in str(flaw(runs.read(run)))


def test_runs_at_work_and_failed_have_no_flaw(root: Path) -> None:
    status = json.loads((root / "bad" / "status.json").read_text())
    shutil.rmtree(root / "bad" / "bundle")
    assert "bundle" in str(flaw(runs.read(root / "bad")))
    (root / "bad" / "status.json").write_text(json.dumps(status | {"state": "failed"}))
    assert flaw(runs.read(root / "bad")) is None


def test_weights_of_another_shape_are_found_without_reading_them(root: Path) -> None:
    file = root / "bad" / "bundle" / "model.safetensors"
    arch = Architecture.from_json((root / "bad" / "bundle" / "architecture.json").read_text())
    state = dict(random_vit(arch).state_dict())
    state.popitem()
    save_file(state, file)
    assert "1 missing" in str(FinishedRun(runs.read(root / "bad")).model_problem)
