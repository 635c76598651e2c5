"""Setting a process up: programs do it before torch is loaded, users of the library need not."""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys

import pytest

from tests.support.models import ROOT

SPIN = "GOMP_SPINCOUNT"
MEND = (
    "import torch\n"
    "try:\n    import torchvision\n"
    "except RuntimeError:\n"
    "    own = torch.library.Library('torchvision', 'DEF')\n"
    "    for name in ('nms', 'qnms'):\n"
    "        own.define(name + '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')\n"
    "    [sys.modules.pop(name) for name in list(sys.modules) if name.startswith('torchvision')]\n"
)
KNOWN = "architecture('deit_tiny_patch16_224').embed_dim"  # timm makes the network, without weights


def run(code: str, **environment: str) -> str:
    given = {name: value for name, value in os.environ.items() if name != SPIN} | environment
    words = [sys.executable, "-c", f"import os, sys\n{code}"]
    return subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("package", ["analysis", "pruning"])
def test_importing_a_package_does_nothing(package: str) -> None:
    code = f"before = dict(os.environ); import {package}; print(before == os.environ, 'torch' in sys.modules)"
    assert run(code).split() == ["True", "False"]


def test_setup_comes_before_torch_and_leaves_what_the_user_set() -> None:
    code = "from analysis.setup import setup; setup(); setup()\n"
    code += f"print(os.environ[{SPIN!r}], 'torch' in sys.modules)"
    assert run(code).split() == ["10000", "False"]
    assert run(code, **{SPIN: "7"}).split() == ["7", "False"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked")
def test_freed_memory_is_kept_unless_the_user_says_otherwise() -> None:
    """Pages that the system gives while 40 MB are taken and freed again and again."""
    code = (
        "import resource\nfrom analysis.setup import keep_freed_memory\n"
        "taken = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "keep_freed_memory()\nb'x' * 40_000_000\nbefore = taken()\n"
        "for _ in range(5): b'x' * 40_000_000\n"
        "print(taken() - before)"
    )
    assert int(run(code)) < 1000 < 40_000 < int(run(code, MALLOC_TOP_PAD_="0"))


def test_the_command_line_sets_up_before_torch_is_loaded() -> None:
    code = (
        "import runpy\nfrom analysis import setup as module\n"
        "module.setup = lambda: print('torch' in sys.modules)\n"
        "sys.argv = ['pruning', 'runs', '--root', '/nowhere', '--json']\n"
        "runpy.run_module('pruning', run_name='__main__')"
    )
    with pytest.raises(subprocess.CalledProcessError) as ended:
        run(code.replace("runs", "nothing"))
    assert ended.value.returncode == 2 and ended.value.stdout == "False\n"


@pytest.mark.parametrize(
    ("file", "first"), [("app/main.py", "import streamlit"), ("app/__main__.py", "first_page()")]
)
def test_the_app_sets_up_first(file: str, first: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    assert text.index("\nfrom analysis.setup import setup") < text.index(first)
    before = text[: text.index(first)]
    assert "setup()" in before
    loaded = [
        node for node in ast.walk(ast.parse(before.rpartition("\n")[0])) if isinstance(node, ast.ImportFrom)
    ]
    assert {node.module for node in loaded} <= {"__future__", "pathlib", "analysis.setup", "app"}


@pytest.mark.parametrize(
    "code",
    [
        f"from analysis.models import architecture; print({KNOWN})",
        f"from analysis.models import architecture; import timm; print({KNOWN})",
        f"{MEND}import timm\nfrom analysis.models import architecture\nprint({KNOWN})",
        "from analysis.data import open_data; import timm, torchvision; print(192)",
        "from pruning.training import train; import timm, torchvision; print(192)",
    ],
    ids=["alone", "timm afterwards", "timm before", "data", "training"],
)
def test_a_user_of_the_library_calls_nothing_first(code: str) -> None:
    """Also where torchvision's operators do not fit the installed torch."""
    assert run(code) == "192\n"


def test_models_load_offline_without_timm() -> None:
    code = "from analysis.models import load; print(load('demo').name, 'torchvision' in sys.modules)"
    assert run(code).split() == ["demo", "False"]
