"""Builds the wheel: `pip install .` or `python -m pip wheel .`.

In the repository the folders are packages of their own, `analysis`, `pruning` and `app`. Such names are too
common to be installed, so in the wheel they lie inside of one package, `prunescope`, and what they import
of each other is rewritten to match. So is what they say of the command line: `python -m pruning prune`
becomes `prunescope prune`.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "prunescope"
FOLDERS = ("analysis", "pruning", "app", "assets")
# what is copied into bundles as it stands, and pictures for the README
AS_THEY_ARE = ("pruning/bundle/transformers_code/",)
LEFT_OUT = ("assets/screenshots/", "assets/zero_shot.png")
COMMANDS = (
    (re.compile(r'"python", "-m", "pruning"'), f'"{PACKAGE}"'),
    (re.compile(r"python -m pruning\b"), PACKAGE),
    (re.compile(r"python -m app\b"), f"{PACKAGE} app"),
)
FACE = '''"""See what the attention heads of a Vision Transformer do, prune it, and save what is left.

As a library: `from prunescope import evaluate, load, prune, save`.
"""

from typing import Any

__all__ = ["evaluate", "load", "prune", "save"]


def __getattr__(name: str) -> Any:
    """The four functions, imported when they are asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from prunescope import pruning

    return getattr(pruning, name)
'''
COMMAND = '''"""The command line: `prunescope COMMAND`, and `prunescope app` for the app."""

import runpy
import sys


def main() -> None:
    """Hand over to the app, or to the command line of pruning."""
    app = sys.argv[1:2] == ["app"]
    if app:
        del sys.argv[1]
    runpy.run_module("prunescope.app" if app else "prunescope.pruning", run_name="__main__")


if __name__ == "__main__":
    main()
'''


def rewritten(source: str) -> str:
    """The same module as a part of the package.

    Raises:
        ValueError: it imports a whole folder by its bare name, which has another name in the package.
    """
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and _is_ours(node.module or ""):
            _replace(lines, node.lineno, f"from {node.module}", f"from {PACKAGE}.{node.module}")
        elif isinstance(node, ast.Import):
            for name in node.names:
                if _is_ours(name.name):
                    if name.asname is None:
                        raise ValueError(f"import {name.name} must say `from` or `as` to be rewritten")
                    _replace(lines, node.lineno, f"import {name.name}", f"import {PACKAGE}.{name.name}")
    text = "\n".join(lines)
    for pattern, words in COMMANDS:
        text = pattern.sub(words, text)
    return text


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in FOLDERS


def _replace(lines: list[str], number: int, old: str, new: str) -> None:
    lines[number - 1] = lines[number - 1].replace(old, new, 1)


def files() -> Iterator[Path]:
    """What goes into the wheel, relative to the project."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and "__pycache__" not in file.parts and not name.startswith(LEFT_OUT):
                yield file.relative_to(ROOT)


def requirements() -> list[str]:
    """From the version that the tests use up to the next major one."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return [f"{name}>={version},<{int(version.partition('.')[0]) + 1}" for name, version in pairs]


class BuildPackage(build_py):
    """Puts all folders into one package, instead of copying packages as they are."""

    def run(self) -> None:
        """Write the package into the build folder."""
        package = Path(self.build_lib) / PACKAGE
        shutil.rmtree(package, ignore_errors=True)  # an earlier build may hold modules that are gone
        for file in files():
            target = package / file
            target.parent.mkdir(parents=True, exist_ok=True)
            content = (ROOT / file).read_bytes()
            if file.suffix == ".py" and not file.as_posix().startswith(AS_THEY_ARE):
                content = rewritten(content.decode()).encode()
            target.write_bytes(content)
        (package / "__init__.py").write_text(FACE, encoding="utf-8")
        (package / "__main__.py").write_text(COMMAND, encoding="utf-8")

    def get_source_files(self) -> list[str]:
        """What a source distribution holds besides."""
        return [str(file) for file in [*files(), Path("requirements.txt")]]

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What `run` writes."""
        package = Path(self.build_lib) / PACKAGE
        return [str(package / file) for file in [*files(), Path("__init__.py"), Path("__main__.py")]]


if __name__ == "__main__":
    setup(packages=[PACKAGE], cmdclass={"build_py": BuildPackage}, install_requires=requirements())
