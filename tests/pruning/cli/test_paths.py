"""Whatever path a user writes, in any option: one line that says what is wrong, and exit code 2."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from pruning.cli.arguments import path_argument
from pruning.cli.main import _parser, main
from pruning.wording import MOST_PRINTED, printable
from tests.support.bad_paths import BAD_PATHS, bad_path

# What a command needs besides the option that is tried.
NEEDED = {
    "--model": "demo",
    "--against": "demo",
    "--teacher": "demo",
    "--data": "demo",
    "--format": "onnx",
    "--out": "new",
    "--qk": "0.5",
    "--method": "l2",
    "folder": "run",
    "folders": "run",
}
NAMES = {
    "--model",
    "--against",
    "--teacher",
    "--data",
    "--calibration",
    "--test",
}  # or a name of the project's
NOT_A_FILE = {"--against-weights", "--weights", "--teacher-weights"}


def commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def name_of(action: argparse.Action) -> str:
    return action.option_strings[0] if action.option_strings else action.dest


OPTIONS = [
    (command, name_of(action))
    for command, parser in commands().items()
    for action in parser._actions
    if (action.type is path_argument or name_of(action) in NAMES)
    and (command, name_of(action)) != ("evaluate", "--against")  # read as --model is
]


def words(command: str, option: str, value: str) -> list[str]:
    known = {name_of(action) for action in commands()[command]._actions}
    needed = {name: text for name, text in NEEDED.items() if name in known} | {option: value}
    if command == "export":  # other formats take no images
        needed["--format"] = "onnx-int8"
    if command == "evaluate":  # what is compared is features, which the demo does not give
        needed.pop("--against")
    if command == "heads" and option != "--out":
        needed.pop("--out")
    pairs = [[value] if not name.startswith("-") else [f"{name}={value}"] for name, value in needed.items()]
    return [command, *(word for pair in pairs for word in pair)]


def said(capsys: pytest.CaptureFixture[str], arguments: list[str], code: int = 2) -> str:
    try:
        assert main(arguments) == code
    except SystemExit as stop:  # argparse's way
        assert stop.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    line = captured.err.removesuffix("\n")
    assert line.startswith("error: ") and line.isprintable() and len(line) < MOST_PRINTED + 30
    return line


def test_all_options_that_take_a_path_are_tried() -> None:
    """An option of a new command whose type is plain `Path` would not be among those tried here."""
    types = [action.type for parser in commands().values() for action in parser._actions]
    assert Path not in types
    tried = {option for _, option in OPTIONS}
    assert tried >= {"--out", "--root", "--weights", "folder", "folders"} | NAMES | NOT_A_FILE


@pytest.mark.parametrize("name", BAD_PATHS)
@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: value)
def test_a_bad_path_is_one_line(
    capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    text, reason = bad_path(name, tmp_path)
    line = said(capsys, words(command, option, text))
    assert reason in line
    assert {path.name for path in tmp_path.iterdir()} <= {"circle"}


@pytest.mark.parametrize("name", ["PRUNESCOPE_RUNS", "PRUNESCOPE_CACHE", "XDG_CACHE_HOME"])
def test_a_bad_path_in_the_environment(capsys, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("PRUNESCOPE_CACHE")
    monkeypatch.setenv(name, "~nosuchuser/x")
    survey = ["survey", "--model", "demo", "--data", "demo", "--method", "l2", "--budget-images", "8"]
    line = said(capsys, ["runs"] if name == "PRUNESCOPE_RUNS" else survey)
    assert line.startswith(f"error: ${name} '~nosuchuser/x' begins with ~")


def test_a_user_without_a_home_is_told_what_to_set(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("PRUNESCOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    survey = ["survey", "--model", "demo", "--data", "demo", "--method", "l2", "--budget-images", "8"]
    assert "set $PRUNESCOPE_CACHE" in said(capsys, survey)


def test_home_folders_are_expanded(capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    line = said(capsys, words("prune", "--out", "~/mine"))
    assert f"{tmp_path}/mine already contains notes" in line


# ---- names that would write to the terminal

EVIL = "a\nerror: all is well\r\x1b[31m\x1b]0;owned\x07\u202e\u2028\x7f\x9b2J"


@pytest.mark.parametrize(
    "arguments",
    [
        [EVIL],
        ["estimate", "--model", EVIL],
        ["estimate", "--model", f"./{EVIL}"],
        ["evaluate", "--model", "demo", "--data", EVIL],
        ["evaluate", "--model", "demo", "--data", "demo", "--limit", EVIL],
        ["prune", "--model", "demo", "--data", "demo", "--qk", "0.5", "--method", EVIL, "--out", "x"],
        ["prune", "--model", "demo", "--data", "demo", "--qk", "0.5", "--option", EVIL, "--out", "x"],
        ["bench", "--model", "demo", "--against", "demo", "--backend", EVIL],
        ["report", EVIL, "--out", "x"],
        ["cancel", EVIL],
        ["resume", EVIL],
        ["run", EVIL],
    ],
    ids=lambda words: " ".join(words[:1] + words[-2:-1]),
)
def test_names_reach_the_terminal_as_escapes(capsys, tmp_path, monkeypatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    said(capsys, arguments)


def test_file_and_class_names_reach_the_terminal_as_escapes(capsys, tmp_path: Path) -> None:
    folder = tmp_path / EVIL.replace("/", "")
    folder.mkdir()
    (folder / f"{folder.name}.png").write_text("no image")
    for data in (tmp_path, folder, folder / f"{folder.name}.png"):
        said(capsys, ["evaluate", "--model", "demo", "--data", str(data)])


def test_names_of_runs_are_listed_as_escapes(capsys, tmp_path: Path) -> None:
    (tmp_path / EVIL).mkdir()
    (tmp_path / EVIL / "status.json").write_text('{"version": 1, "state": 3}')
    assert main(["runs", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and out.removesuffix("\n").isprintable() and "failed" in out


def test_printable() -> None:
    assert printable("1.2\u00a0ms – 3 × café") == "1.2\u00a0ms – 3 × café"
    assert printable("a\nb\x1b[0m\udce9\u202e") == r"a\nb\x1b[0m\udce9\u202e"
    cut = printable("x" * 5000 + "\n the end")
    assert len(cut) == MOST_PRINTED and cut.endswith(r"x\n the end") and re.match(r"x+ … x", cut)


def test_cancelling_what_is_no_run(capsys, tmp_path: Path) -> None:
    for verb in ("cancel", "resume", "run"):
        line = said(capsys, [verb, str(tmp_path / "nowhere")])
        assert "nowhere is no run folder: there is no such folder" in line
        assert "has no job.json" in said(capsys, [verb, str(tmp_path)])
