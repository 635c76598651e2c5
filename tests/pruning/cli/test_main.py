"""The command line contract: keys, exit codes, one clear line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from analysis.measure.paired import change_of_counts
from analysis.measure.speedup import compare
from analysis.models.load import read_bundle
from analysis.models.preprocess import Preprocess
from pruning.bundle.write import write_bundle
from pruning.cli.main import main
from pruning.cli.output import print_result
from tests.support.exports import stand_in
from tests.support.models import ROOT, TINY, random_vit

PRESETS = [
    ("snp-deit-tiny", "deit_tiny_patch16_224", 1.2537, 0.6382, 3.013),
    ("snp-deit-small", "deit_small_patch16_224", 4.5989, 2.0370, 10.057),
    ("snp-deit-small-small", "deit_small_patch16_224", 4.5989, 1.2655, 6.470),
    ("snp-deit-base", "deit_base_patch16_224", 17.5638, 6.3223, 31.590),
]


BENCH = ["bench", "--model", "demo", "--against", "demo"]
PRUNE = ["prune", "--model", "demo", "--data", "demo", "--out", "x"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code: object
    try:
        code = main(words)
    except SystemExit as stop:  # argparse's way
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2, captured
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    return captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    cited = (ROOT / "CITATION.cff").read_text().partition("\nversion: ")[2].partition("\n")[0]
    assert (stop.value.code, capsys.readouterr().out) == (0, f"PruneScope {cited}\n")


@pytest.mark.parametrize(("preset", "model", "before", "after", "params"), PRESETS)
def test_estimate_gives_the_published_figures(capsys, preset, model, before, after, params) -> None:
    got = run(capsys, "estimate", "--model", model, "--preset", preset)
    assert round(got["gmacs_before"], 4) == before
    assert round(got["gmacs_after"], 4) == after
    assert round(got["params_after"] / 1e6, 3) == params
    assert got["bytes_after"] == 4 * got["params_after"]


def test_estimate_knows_what_a_method_makes_of_it(capsys) -> None:
    """Spectral turns a narrower embedding, whose 13 norms lose their biases; GOHSP finds a sparsity."""
    words = ["estimate", "--model", "demo", "--embed", "0.25"]
    plain, turned = run(capsys, *words), run(capsys, *words, "--method", "spectral")
    assert plain["params_after"] - turned["params_after"] == 13 * 144
    words = ["estimate", "--model", "demo", "--method", "gohsp", "--option", "sparsity=0.4"]
    got = run(capsys, *words)
    assert 0.59 * got["params_before"] < got["params_after"] <= 0.6 * got["params_before"]


def test_what_was_chosen_in_a_weights_file_is_told(capsys, tmp_path) -> None:
    """On standard error: standard output is one JSON object."""
    state = timm.create_model("test_vit", img_size=64, num_classes=7).state_dict()
    student = {f"module.{name}": value for name, value in state.items()}
    torch.save({"teacher": state, "student": student}, tmp_path / "w.ckpt")
    words = ["--model", "test_vit", "--weights", str(tmp_path / "w.ckpt")]
    assert main(["export", *words, "--out", str(tmp_path / "out"), "--json"]) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        "note: of the weights in w.ckpt, those at teacher are used, not those at student.module",
        "note: its position embedding is for images of 64 x 64 pixels",
    ]
    loaded = read_bundle(tmp_path / "out")
    assert (loaded.model.arch.num_classes, loaded.model.arch.image_size) == (7, (64, 64))


def test_estimate_takes_one_number_or_one_per_block(capsys) -> None:
    one = run(capsys, "estimate", "--model", "demo", "--qk", "0.5", "--embed", "0.25")
    six = run(capsys, "estimate", "--model", "demo", "--qk", ",".join(["0.5"] * 6), "--embed", "0.25")
    assert one == six and one["params_after"] < one["params_before"]
    aligned = run(capsys, "estimate", "--model", "demo", "--mlp", "0.3", "--align", "64")
    assert (
        aligned["params_after"] != run(capsys, "estimate", "--model", "demo", "--mlp", "0.3")["params_after"]
    )


def test_prune_then_evaluate(capsys, tmp_path: Path) -> None:
    out = str(tmp_path / "pruned")
    words = ("--qk", "0.5", "--v", "0.25", "--mlp", "0.25", "--limit", "50", "--option", "images=16")
    report = run(
        capsys, "prune", "--model", "demo", "--data", "demo", "--method", "snp", *words, "--out", out
    )
    contract = {"params", "gmacs", "top1"}
    assert {f"{name}_{when}" for name in contract for when in ("before", "after")} <= report.keys()
    assert report["images"] == 50 and report["seconds"] > 0
    stored = json.loads((tmp_path / "pruned" / "report.json").read_text())
    assert stored["top1_after"] == report["top1_after"]
    change = report["top1_change"]
    assert change.keys() == {"change", "low", "high", "p", "lost", "gained", "images"}
    assert change["change"] == pytest.approx(report["top1_after"] - report["top1_before"])
    assert stored["top1_change"] == change and "top1_change_by_recovery" not in report

    estimate = run(capsys, "estimate", "--model", out)
    assert estimate["params_before"] == report["params_after"]
    again = run(capsys, "evaluate", "--model", out, "--data", "demo", "--limit", "50")
    assert again["top1"] == report["top1_after"]
    assert again.keys() >= {"top1", "top5", "top1_low", "top1_high", "images", "seconds"}


@pytest.mark.parametrize(("kind", "asked"), [("gmacs", "7e-5"), ("params", "1.1e4")])
def test_prune_to_a_budget(capsys, tiny_photos: tuple[str, str], tmp_path: Path, kind, asked) -> None:
    model, photos = tiny_photos
    words = ["--model", model, "--data", photos, "--method", "l2", f"--budget-{kind}", asked, "--align", "1"]
    report = run(capsys, "prune", *words, "--out", str(tmp_path / "out"))
    budget = report["budget"]
    assert budget["kind"] == kind and budget["asked"] == float(asked)
    assert budget["got"] == report[f"{kind}_after"]
    assert 0.98 * budget["asked"] <= budget["got"] <= budget["asked"]
    assert len(budget["widths"]) == 2
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    assert stored["budget"] == budget


def test_asked_and_got_are_printed_for_people(capsys, tiny_photos: tuple[str, str], tmp_path: Path) -> None:
    model, photos = tiny_photos
    words = ["--model", model, "--data", photos, "--method", "l2", "--budget-params", "1.2e4"]
    assert main(["prune", *words, "--out", str(tmp_path / "out")]) == 0
    assert "asked for 12,000 parameters, got 1" in capsys.readouterr().out


def test_widths_of_a_budget_are_multiples_of_8_unless_told(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = []

    def stop(job, **_):
        aligned.append(job.align)
        raise ValueError("far enough")

    monkeypatch.setattr("pruning.cli.prune.prune", stop)
    for words in (["--budget-ms", "5"], ["--budget-ms", "5", "--align", "1"], ["--qk", "0.5"]):
        main([*PRUNE, *words])
    assert aligned == [8, 1, 1]


@pytest.fixture
def tiny_photos(tiny_bundle: str, tmp_path: Path) -> tuple[str, str]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "photos" / str(number % 3)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    return tiny_bundle, str(tmp_path / "photos")


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> str:
    report = {"method": "none"}
    write_bundle(tmp_path / "tiny", random_vit(TINY), Preprocess(TINY.image_size), name="tiny", report=report)
    return str(tmp_path / "tiny")


def test_bench(capsys, tiny_bundle: str) -> None:
    words = ("--batch", "1,2", "--rounds", "3", "--threads", "1", "--backend", "torch,onnx")
    timed = run(capsys, "bench", "--model", tiny_bundle, "--against", tiny_bundle, *words)
    for batches in (timed["batches"], timed["torch"]["batches"], timed["onnx"]["batches"]):
        assert batches.keys() == {"1", "2"}
        for timing in batches.values():
            figures = {"speedup", "speedup_low", "speedup_high", "verdict", "rounds"}
            assert timing.keys() == {"a_ms", "b_ms"} | figures
            assert timing["a_ms"].keys() == timing["b_ms"].keys() == {"p10", "p50", "p90"}
            low, high = timing["speedup_low"], timing["speedup_high"]
            assert low <= timing["speedup"] <= high and timing["rounds"] in (12, 24)
            assert timing["verdict"] == "not distinguishable" if low <= 1 <= high else "faster slower"
            assert timing["verdict"] in ("faster", "slower", "not distinguishable")
    assert timed["threads"] == 1 and timed["batches"] == timed["torch"]["batches"]


def test_export(capsys, tiny_bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for the exporters, which have tests of their own."""
    write = lambda model, preprocess, path: path.write_text("a model")
    stand_in(monkeypatch, write)
    words = ("--format", "bundle,onnx,pt2", "--out", str(tmp_path / "files"))
    files = run(capsys, "export", "--model", tiny_bundle, *words)
    assert files.keys() == {"bundle", "onnx", "pt2"}
    assert all(Path(path).exists() for path in files.values())


def test_a_paired_change_for_people(capsys) -> None:
    print_result({"top1_change": asdict(change_of_counts(40, 12, 650))}, as_json=False)
    said = "-4.3 points (-6.6 to -2.2), p = 0.00010: chance does not explain the change"
    assert capsys.readouterr().out.split(maxsplit=1) == ["top1_change", f"{said}\n"]


def test_timings_for_people(capsys) -> None:
    for times, said in (
        (((2.0,) * 30, (2.5,) * 30), "1.25 (1.25 to 1.25) times as fast, faster in 30 rounds"),
        (((2.0,) * 3, (2.5,) * 3), "1.25 (–) times as fast, not distinguishable in 3 rounds"),
    ):
        print_result({"torch": {"batches": {"8": asdict(compare(*times))}}}, as_json=False)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == f"torch, batch 8: {said}"
        assert lines[1] == "  a, ms: p10 2.00, p50 2.00, p90 2.00"


def test_a_table_for_people(capsys) -> None:
    assert main(["estimate", "--model", "demo", "--mlp", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "params_before" in out and "2721226" in out.replace(",", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["estimate", "--model", "demo", "--qk", "1"], "at least 0 and below 1"),
        (["estimate", "--model", "demo", "--qk=-0.5"], "at least 0 and below 1"),
        (
            ["estimate", "--model", "demo", "--qk", "a"],
            "must be one number, or one for each block with commas between them, got 'a'",
        ),
        (["estimate", "--model", "demo", "--qk", "0.1,0.2"], "2 numbers, but the model has 6 blocks"),
        (["estimate", "--model", "demo", "--heads", "0.95"], "leaves nothing of heads"),
        (["estimate", "--model", "demo", "--preset", "none"], "there is no preset 'none'"),
        (["estimate", "--model", "demo", "--preset", "snp-deit-tiny"], "is for 12 blocks"),
        (["estimate", "--model", "demo", "--align", "0"], "align must be"),
        (["estimate", "--model", "deit_tinny_patch16_224"], "deit_tiny_patch16_224"),
        (["estimate", "--model", "resnet18"], "resnet18"),
        (["estimate"], "--model"),
        (["frobnicate"], "invalid choice"),
        (["prune", "--model", "demo", "--data", "demo", "--out", "x"], "nothing to remove"),
        (["prune", "--model", "demo", "--data", "demo", "--qk", "0", "--out", "x"], "nothing to remove"),
        (["prune", "--model", "demo", "--data", "nowhere", "--qk", "0.5", "--out", "x"], "nowhere"),
        (["estimate", "--model", "demo", "--budget-gmacs", "0.1"], "is found on images: use prune"),
        ([*PRUNE, "--budget-gmacs", "0.1", "--qk", "0.5"], "a budget, or ratios or a preset, not both"),
        ([*PRUNE, "--budget-gmacs", "0.1", "--budget-ms", "5"], "got gmacs and ms"),
        ([*PRUNE, "--budget-params", "-3"], "above 0, got -3"),
        ([*PRUNE, "--budget-params", "many"], "must be a number, got 'many' (see"),
        ([*PRUNE, "--budget-batch", "8"], "a budget is one of gmacs, params, ms, got none"),
        ([*PRUNE, "--budget-gmacs", "0.1", "--method", "ablation"], "cannot narrow a single block"),
        (
            ["prune", "--model", "demo", "--data", "demo", "--method", "magic", "--qk", "0.5", "--out", "x"],
            "no method",
        ),
        (
            ["prune", "--model", "demo", "--data", "demo", "--qk", ".5", "--option", "a=1", "--out", "x"],
            "no option 'a'",
        ),
        (
            ["prune", "--model", "demo", "--data", "demo", "--qk", ".5", "--option", "a", "--out", "x"],
            "NAME=VALUE",
        ),
        (["evaluate", "--model", "demo", "--data", "demo", "--limit", "0"], "at least 1 image"),
        (["evaluate", "--model", "demo", "--data", "demo", "--limit", "1.5"], "a whole number, got '1.5'"),
        (["evaluate", "--model", "demo", "--data", "demo", "--seed", "9" * 5000], "a whole number, got '999"),
        ([*PRUNE, "--qk", "0.5", "--method=--"], "argument --method: needs a value, got '--'"),
        (["estimate", "--model", "demo", "--qk=--"], "argument --qk: needs a value, got '--'"),
        ([*BENCH, "--batch", "1,,2"], "argument --batch: must be a whole number, got ''"),
        ([*BENCH, "--backend", "x" * 500], f"must be one of torch, onnx, got '{'x' * 79}…' (see"),
        ([*PRUNE, "--qk", "0.5", "--option", "y" * 500], f"must be NAME=VALUE, got '{'y' * 79}…' (see"),
        ([*PRUNE, "--remove-heads", "z" * 500], f"written BLOCK.HEAD, such as 3.2, got '{'z' * 79}…' (see"),
        ([*PRUNE, "--remove-heads", "9" * 5000 + ".0"], "written BLOCK.HEAD, such as 3.2, got '999"),
        (["runs", "--root", "a\0b"], "contains a null byte, which no path can"),
        *[
            ([*BENCH, option, value], f"{name} must be at least 1 and at most {most}, got")
            for option, name, most, values in (
                ("--batch", "batch sizes", "1,024", ("0", "-1", "1,1025", "100000000")),
                ("--threads", "threads", "256", ("0", "-1", "257", "100000", str(10**30))),
                ("--rounds", "rounds", "10,000", ("0", "10001", "1000000000")),
            )
            for value in values
        ],
        *[
            (
                ["estimate", "--model", "demo", "--qk", "0.5", f"--align={value}"],
                "at least 1 and at most 1,024, got",
            )
            for value in (-8, 1025, 1_000_000)
        ],
        (
            ["estimate", "--model", "demo", "--qk", "0.5", "--align", "64"],
            "nothing of qk (width 32) is removed",
        ),
        (
            ["estimate", "--model", "demo", "--qk", "0.5", "--mlp", "0.5", "--align", "32"],
            "nothing of qk (width 32)",
        ),
        (
            ["estimate", "--model", "demo", "--embed", "0.02", "--align", "16"],
            "nothing of embed (width 192) is",
        ),
        ([*PRUNE, "--budget-ms", "1e9"], "a budget must be at most 1,000,000 ms, got 1,000,000,000"),
        ([*PRUNE, "--budget-ms", "nan"], "above 0, got nan"),
        ([*PRUNE, "--budget-ms", "5", "--budget-batch", "1025"], "batch must be at most 1,024, got 1,025"),
        (
            ["bench", "--model", "demo", "--against", "demo", "--backend", "tpu"],
            "must be one of torch, onnx, got 'tpu'",
        ),
        (
            ["export", "--model", "demo", "--format", "gguf", "--out", "x"],
            "must be one of bundle, transformers, onnx",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_exit_code_2(capsys, tmp_path, monkeypatch, words, message) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *words)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_refused_before_the_work(capsys, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    words = ("prune", "--model", "demo", "--data", "nowhere", "--qk", "0.5", "--out", str(tmp_path))
    assert "already contains notes.txt" in refused(capsys, *words)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_no_more_threads_than_the_machine_can_use(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    said = "threads must be at most 8 on this machine, which has 2 processors, got 9"
    assert said in refused(capsys, *BENCH, "--threads", "9", "--backend", "onnx")


def test_models_of_different_image_sizes_are_not_timed(capsys, tiny_bundle: str) -> None:
    words = ("bench", "--model", tiny_bundle, "--against", "demo")
    assert "must take images of one size, got [(3, 16, 24), (3, 64, 64)]" in refused(capsys, *words)


def test_a_fresh_process_answers_on_standard_output_alone() -> None:
    words = [sys.executable, "-m", "pruning", "estimate", "--model", "demo", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["params_before"] == 2721226
    words[-3:] = ["nothing-like-it", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr


def test_real_deit_tiny(capsys, real_data: Path) -> None:
    words = (
        "--model",
        "deit_tiny_patch16_224",
        "--weights",
        str(real_data / "deit_tiny_patch16_224.safetensors"),
    )
    got = run(capsys, "evaluate", *words, "--data", str(real_data / "imagenet-val-650.zip"), "--limit", "100")
    assert 0.65 < got["top1"] < 0.92 and got["images"] == 100


@pytest.mark.parametrize("words", [[], ["prune"], ["evaluate"], ["recover"], ["run"], ["runs"], ["bench"]])
def test_help_is_shown(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*words, "--help"])
    assert "usage:" in capsys.readouterr().out
