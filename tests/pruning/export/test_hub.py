"""Uploads to the hub, against a stand-in for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from pruning.cli.main import main
from tests.support.exports import stand_in


class Hub:
    """What was asked of the hub; it fails with `error` if there is one."""

    asked: list[tuple[Any, ...]] = []  # noqa: RUF012
    error: Exception | None = None

    def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> str:
        self.asked.append((repository, private, exist_ok))
        return f"https://hub.invalid/{repository}"

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> None:
        if self.error is not None:
            raise self.error
        assert all((folder_path / name).is_file() for name in allow_patterns)
        self.asked.append((repo_id, sorted(allow_patterns)))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "made up")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "asked", [])
    monkeypatch.setattr(Hub, "error", None)
    return Hub


def export(folder: Path, *words: str, format: str = "transformers", to: str = "me/smaller") -> int:
    own = ["export", "--model", "demo", "--format", format, "--out", str(folder), "--push-to-hub", to]
    return main([*own, *words])


def test_all_that_was_written_is_pushed(
    hub: type[Hub], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(tmp_path / "out") == 0
    made, pushed = hub.asked
    assert made == ("me/smaller", True, True)
    assert pushed == ("me/smaller", sorted(file.name for file in (tmp_path / "out").iterdir()))
    assert {"config.json", "model.safetensors", "vit.py", "README.md"} <= set(pushed[1])
    assert "https://hub.invalid/me/smaller" in capsys.readouterr().out


def test_what_else_lies_in_the_folder_is_not(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, lambda model, preprocess, path: path.write_text("a program"))
    (tmp_path / "private.txt").write_text("no one else's")
    assert export(tmp_path, format="pt2") == 0
    assert hub.asked[1] == ("me/smaller", ["model.pt2"])


def test_without_token_name_package_or_network_one_sentence_before_the_work(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(message: str, to: str = "me/smaller") -> None:
        assert export(tmp_path / "out", to=to) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1

    for name in ("smaller", "me/../you", "a/b/c", "me/x y"):
        refused("must be OWNER/NAME", name)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refused("needs the network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    refused("run `hf auth login`, or set HF_TOKEN")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("pip install huggingface_hub")
    assert not (tmp_path / "out").exists() and not hub.asked


def test_if_the_hub_fails_the_files_stay(
    hub: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "error", OSError("403 Forbidden\nand much more"))
    assert export(tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "the hub did not take them for me/smaller (403 Forbidden)" in said and said.count("\n") == 1
    assert (tmp_path / "out" / "config.json").is_file()
