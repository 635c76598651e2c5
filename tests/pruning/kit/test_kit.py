"""Kits: what lies in them, and that benchmark.py runs where this project and torch are not."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest

from analysis.measure.latency import take_turns
from analysis.models.load import DEMO, architecture
from analysis.models.preprocess import Preprocess
from analysis.threads import threads
from analysis.vit import Architecture, ViT
from pruning.budget import Budget, allocate_latency, allocate_predicted
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.export import export_onnx, onnx_runner
from pruning.kit import graphs
from pruning.kit.device import DeviceTable, read_device
from pruning.kit.here import OnnxClock, measure_onnx_table
from pruning.kit.layout import blocks_of, entries, narrowed
from pruning.kit.write import fill, write_kit
from tests.support.budgets import synthetic
from tests.support.models import FAMILIES, SHORT, SHORTER, TINY, random_vit

SMALL = narrowed(TINY, 0.5, 4)
ONE_BLOCK = replace(TINY, blocks=TINY.blocks[:1])
# large enough for its times to mean something; exporting takes seconds for each block of each file
TIMED = replace(architecture(str(DEMO)), blocks=architecture(str(DEMO)).blocks[:2])


def with_slow_dense(table: DeviceTable) -> DeviceTable:
    """The dense model and its blocks 100 times slower: a table where no smaller model is faster is refused.

    Models this small differ by less than times scatter.
    """
    return replace(
        table,
        entries=tuple(
            replace(e, ms={batch: tuple(100 * one for one in times) for batch, times in e.ms.items()})
            if e.architecture == table.architecture or e.widths == (e.of,)
            else e
            for e in table.entries
        ),
    )


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    """Exports each block and model once for all tests, because one takes torch seconds."""
    kept = cache(graphs._proto)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_proto", lambda entry: deepcopy(kept(replace(entry, int8=False, name=""))))
        yield


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kit of a tiny model."""
    out = tmp_path_factory.mktemp("kits") / "kit"
    write_kit(TINY, [("mine", SMALL)], out)
    return out


@pytest.mark.parametrize("arch", [*SHORTER.values(), SHORT], ids=[*SHORTER, "short"])
def test_a_kit_of_a_model_that_merges_or_lacks_halves_has_all_its_blocks(arch: Architecture) -> None:
    found = entries(arch)
    blocks = {entry.of for entry in found if entry.of == entry.widths[0]}
    assert blocks == set(arch.blocks)
    timed = [(entry.widths[0], entry.of) for entry in found if entry.of is not None]
    assert all(one.merge == of.merge for one, of in timed if one.heads and (arch.merges or one.mlp))
    assert {entry.name for entry in found} >= {"dense", "probe 50 %"}


def test_the_blocks_of_such_a_model_are_timed(tmp_path: Path) -> None:
    arch = replace(SHORT, blocks=SHORT.blocks[-2:], registers=0)
    none, whole = (entry for entry in blocks_of(arch, 8) if entry.of == entry.widths[0])
    merging = blocks_of(replace(SHORT, blocks=SHORT.blocks[1:2], skip_unread=False), 8)[0]
    found = [merging, replace(none, int8=True), whole]  # an absent block has nothing to compute in int8
    fill(tmp_path, arch, found)
    for file in sorted(tmp_path.glob("*.onnx")):
        onnx.checker.check_model(file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        rows = np.zeros((2, *given.shape[1:]), np.float32)
        assert session.run(None, {given.name: rows})[0].shape[-1] == arch.embed_dim


@pytest.mark.parametrize("name", ["rotary", "position bias"])
def test_blocks_with_fewer_tokens_are_timed_where_places_count(name: str, tmp_path: Path) -> None:
    arch = replace(FAMILIES[name], image_size=(32, 40))
    fewer = [entry for entry in blocks_of(arch, 8) if entry.tokens is not None]
    assert min(entry.shape[0] for entry in fewer) > len(arch.prefix_names)
    found = [next(e for e in fewer if e.of == block) for block in dict.fromkeys(arch.blocks)]
    fill(tmp_path, arch, found)
    for file, entry in zip(sorted(tmp_path.glob("*.onnx")), found, strict=True):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        rows = np.ones((3, *entry.shape), np.float32)
        out = session.run(None, {session.get_inputs()[0].name: rows})[0]
        assert out.shape == (3 * entry.shape[0], arch.embed_dim) and np.isfinite(out).all()


def run(python: Path | str, kit: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a kit alone: -I hides the project, whose folder is not the current one either."""
    command = [str(python), "-I", str(kit / "benchmark.py"), "--out", str(out), *words]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=out.parent, timeout=280)


def test_a_kit_runs_without_the_project_and_is_read_back(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "device.json"
    words = ("--batch", "2,1", "--threads", "1", "--rounds", "6", "--name", "a\n board")
    done = run(sys.executable, kit, out, *words)
    assert done.returncode == 0, done.stderr
    assert "written:" in done.stdout and "mine: batch 1" in done.stdout
    table = read_device(out)
    assert (table.device, table.threads, table.rounds, table.batches) == ("a board", 1, 6, (1, 2))
    assert table.kit == json.loads((kit / "kit.json").read_text())["kit"]
    assert table.times(SMALL) is not None and table.times(TINY) is not None
    found = with_slow_dense(table).table(TINY, 2)
    assert set(found.blocks) == set(TINY.blocks) and found.model > 0
    assert found.shares[TINY.blocks[0], TINY.blocks[0]] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["device.json"]


def test_a_kit_holds_no_weights_of_a_model_and_is_small(kit: Path) -> None:
    files = sorted(kit.glob("*.onnx"))
    assert (kit / "weights.bin").stat().st_size < 64 * 1024
    assert sum(file.stat().st_size for file in files) / len(files) < 64 * 1024
    large = [t for file in files for t in onnx.load(file, load_external_data=False).graph.initializer]
    assert all(len(t.raw_data) < 1024 for t in large if len(t.dims) > 1)


def test_the_program_of_a_kit_says_what_is_wrong(kit: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--batch", "x"), "--batch must be whole numbers"),
        (("--batch", "0"), "--batch must be from 1"),
        (("--threads", "0"), "--threads must be from 1"),
        (("--rounds", "1"), "--rounds must be from 5"),
        (("--provider", "TPU"), "--provider must be one of"),
    ):
        done = run(sys.executable, kit, tmp_path / "d.json", *words)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {said}")
        assert len(done.stderr.splitlines()) == 1
    there = [sys.executable, "-I", str(kit / "benchmark.py"), "--out", str(tmp_path / "nowhere" / "d.json")]
    done = subprocess.run(there, check=False, capture_output=True, text=True)
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_damaged_kit_is_one_sentence(kit: Path, tmp_path: Path) -> None:
    (tmp_path / "benchmark.py").write_text((kit / "benchmark.py").read_text())
    done = run(sys.executable, tmp_path, tmp_path / "d.json")
    assert done.returncode == 2 and "so this is no kit" in done.stderr
    (tmp_path / "kit.json").write_text((kit / "kit.json").read_text())
    done = run(sys.executable, tmp_path, tmp_path / "d.json")
    assert done.returncode == 2 and "ONNX Runtime could not run the kit" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "d.json").exists()


# a shell that starts the tests in the background may have told its processes to ignore this signal
HEARD = """import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")"""


def test_a_kit_is_interrupted_without_a_file(kit: Path, tmp_path: Path) -> None:
    out = tmp_path / "device.json"
    command = [sys.executable, "-I", "-c", HEARD, str(kit / "benchmark.py")]
    command += ["--out", str(out), "--rounds", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert "models and blocks" in process.stdout.readline()
        assert "opening" in process.stdout.readline()
        process.send_signal(2)
        assert process.wait(60) == 1 and "interrupted: nothing was written" in process.stderr.read()
    assert not list(tmp_path.iterdir())


def test_the_command_writes_a_zip(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_bundle(
        tmp_path / "tiny", random_vit(ONE_BLOCK), Preprocess(TINY.image_size), name="tiny", report={}
    )
    out = tmp_path / "kit.zip"
    words = ["kit", "--model", str(tmp_path / "tiny"), "--out", str(out), "--zip", "--json"]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(out) and told["bytes"] == out.stat().st_size and told["models"] >= 2
    names = zipfile.ZipFile(out).namelist()
    assert {"kit/benchmark.py", "kit/README.txt", "kit/kit.json", "kit/weights.bin"} <= set(names)
    assert main(words) == 2 and "exists, so it is not overwritten" in capsys.readouterr().err
    assert main([*words[:4], str(tmp_path / "kit"), "--zip"]) == 2
    assert "must be a file that ends in .zip" in capsys.readouterr().err


@pytest.mark.slow
def test_a_kit_runs_in_an_environment_of_onnxruntime_and_numpy_alone(tmp_path: Path) -> None:
    kit, place = tmp_path / "kit", tmp_path / "env"
    write_kit(TINY, [], kit, int8=True)
    quantised = onnx.load(sorted(kit.glob("*-model.onnx"))[-1], load_external_data=False).graph.node
    assert sum(node.op_type == "DequantizeLinear" for node in quantised) >= 8
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    got = subprocess.run(
        [python, "-m", "pip", "install", "-q", "onnxruntime", "numpy"],
        check=False,
        capture_output=True,
        text=True,
    )
    if got.returncode:
        pytest.skip(f"pip could not install onnxruntime here: {got.stderr.strip()[-200:]}")
    assert subprocess.run([python, "-c", "import torch"], check=False, capture_output=True).returncode
    done = run(python, kit, tmp_path / "device.json", "--batch", "1,2")
    assert done.returncode == 0, done.stderr
    assert with_slow_dense(read_device(tmp_path / "device.json")).table(TINY, 2, True).model > 0


# ---- true times of this machine


def within(once: Callable[[], tuple[float, str]], share: float) -> None:
    """Some measurement deviates by so much at most; other work on this machine can spoil one of them."""
    for _ in range(3):
        error, told = once()
        if error <= share:
            return
    raise AssertionError(told)


def truly(dense: Any, arch: Any, batch: int, folder: Path) -> float:
    """A model's time as a share of the dense one's: both exported as users export, and timed in turns."""
    runs = []
    for name, one in (("small", arch), ("dense", dense)):
        export_onnx(ViT(one).eval(), folder / f"{name}.onnx")
        runs.append(onnx_runner(folder / f"{name}.onnx", 1))
    shape = (dense.in_channels, *dense.image_size)
    (small, whole) = take_turns(runs, shape, (batch,), rounds=30, looks=1)[batch]
    quick = lambda times: mean(sorted(times)[: len(times) // 2])
    return quick(small) / quick(whole)


@pytest.fixture
def quiet() -> None:
    """Skips a test where something else computes: neither this process nor another does while it looks."""
    busy = psutil.cpu_percent(interval=2.0)
    if busy > 20:
        pytest.skip(f"times mean something only where nothing else computes: {busy:.0f} % busy")


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quiet")
def test_a_budget_solved_on_a_kit_is_met_on_this_machine(tmp_path: Path) -> None:
    """The kit is run as on a device; the model predicted for it is then exported and timed for real."""
    dense, batch = TIMED, 8
    write_kit(dense, [], tmp_path / "kit")

    def once() -> tuple[float, str]:
        done = run(sys.executable, tmp_path / "kit", tmp_path / "d.json", "--batch", "8", "--threads", "1")
        assert done.returncode == 0, done.stderr
        table = read_device(tmp_path / "d.json").table(dense, batch)
        budget = Budget(ms=0.7 * table.model, batch=batch)
        found = allocate_predicted(dense, synthetic(dense), budget, table)
        assert found.arch != dense
        share = truly(dense, found.arch, batch, tmp_path)
        return abs(share / 0.7 - 1), f"asked for 0.7 of the dense model's time, got {share:.3f}"

    within(once, 0.05)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("int8", [False, True])
def test_a_budget_of_onnx_runtime_is_met_on_this_machine(int8: bool, tmp_path: Path) -> None:
    dense, batch = TIMED, 8

    def once() -> tuple[float, str]:
        with threads(1):
            table = measure_onnx_table(dense, batch, 8, int8)
            clock = OnnxClock(dense, table, int8)
            budget = Budget(ms=0.75 * table.model, batch=batch)
            found = allocate_latency(dense, synthetic(dense), budget, table, measure=clock)
            share = clock(found.arch) / table.model if int8 else truly(dense, found.arch, batch, tmp_path)
        assert found.device is None
        return abs(share / 0.75 - 1), f"asked for 0.75 of the dense model's time, got {share:.3f}"

    within(once, 0.05)


def test_a_tiny_model_is_timed_here_at_every_width() -> None:
    told: list[float] = []
    with threads(1):
        found = measure_onnx_table(ONE_BLOCK, 2, 8, progress=lambda _, share: told.append(share))
    assert found.device is None and found.truth == () and found.batch == 2
    assert set(found.blocks) == set(ONE_BLOCK.blocks) and all(share > 0 for share in found.shares.values())
    assert told == sorted(told) and told[-1] == 1
