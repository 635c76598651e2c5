"""The lock files pin everything that the requirements bring in, and nothing of torch's CUDA packages."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.models import ROOT

APP, DEV, CUDA = "requirements.lock", "requirements-dev.lock", "constraints-cuda.txt"
CUDA_NAME = re.compile(r"nvidia-|cuda-|triton$")


def words(file: str) -> list[str]:
    """Its lines without comments."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return [word for line in lines if (word := line.partition("#")[0].strip())]


def pins(file: str) -> dict[str, str]:
    """The version it pins of every package, its `-r` and `-c` lines left out."""
    found: dict[str, str] = {}
    for line in words(file):
        if line.startswith("-"):
            continue
        requirement = Requirement(line)
        specifiers = list(requirement.specifier)
        assert [one.operator for one in specifiers] == ["=="], f"{file}: {line} is not pinned"
        name = canonicalize_name(requirement.name)
        # with one version for all systems and Pythons, what is tested here is what everyone gets
        assert name not in found, f"{file}: {name} stands there twice"
        found[name] = specifiers[0].version
    return found


def needs(name: str) -> list[Requirement]:
    """What an installed package needs here, without its extras."""
    try:
        all_of_them = map(Requirement, metadata.requires(name) or [])
    except metadata.PackageNotFoundError:  # it is for another system
        return []
    return [need for need in all_of_them if not need.marker or need.marker.evaluate({"extra": ""})]


@pytest.mark.parametrize(("listed", "lock"), [("requirements.txt", APP), ("requirements-dev.txt", DEV)])
def test_what_is_listed_is_locked(listed: str, lock: str) -> None:
    locked = {**pins(APP), **pins(lock)}  # what the app needs as well is locked with the app
    assert pins(listed).items() <= locked.items(), "run `make lock`"


@pytest.mark.parametrize("lock", [APP, DEV])
def test_all_that_the_packages_need_is_locked(lock: str) -> None:
    locked = {**pins(APP), **pins(lock)}
    for name in locked:
        for need in needs(name):
            version = {**locked, **pins(CUDA)}.get(canonicalize_name(need.name))
            assert version, f"{name} needs {need}: run `make lock`"
            assert need.specifier.contains(version, prereleases=True), f"{name} needs {need}, not {version}"


def test_cuda_packages_are_constraints_only() -> None:
    assert not [name for name in pins(APP) | pins(DEV) if CUDA_NAME.match(name)]
    assert all(CUDA_NAME.match(name) for name in pins(CUDA))
    assert {line for file in (APP, DEV) for line in words(file) if line.startswith("-")} == {
        f"-c {CUDA}",
        f"-r {APP}",
    }


@pytest.mark.parametrize("file", [APP, DEV, CUDA])
def test_no_address_path_or_hash(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|@|--hash|--(extra-)?index-url|--find-links|(^|\s)[/~]\w", text)


def test_pre_commit_has_the_same_ruff() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\w.]+)", text)) == {pins("requirements-dev.txt")["ruff"]}
