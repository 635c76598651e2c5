"""Runs that are killed at random moments and resumed end as a run that nobody killed, and leave no litter.

Each attempt is a child of this process by `fork`, which has imported all that a run needs: a kill then falls
into the work and not into the imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pruning.cut.ratios import Ratios
from pruning.jobs import registry
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.runs import folder as runs
from pruning.runs.metrics import read_metrics
from pruning.runs.process import execute
from tests.fuzz.valid import make_inputs

_TRAINING = tuple({"epochs": 4, "batch": 5, "workers": 0, "lr": 1e-3, "checkpoint_seconds": 0}.items())
JOBS = {
    "prune": Job(
        "tiny",
        "set",
        "spectral",
        ratios=Ratios(qk=0.25, mlp=0.5),
        options=(("images", 20),),
        recovery=_TRAINING,
    ),
    "recover": RecoverJob("small", "tiny", "set", options=_TRAINING),
}
_TIMES = ("seconds",)  # in results, what differs from run to run


@dataclass
class Killed:
    """How many kills there were, and how many runs came through them."""

    kills: int = 0
    runs: int = 0


def kill_and_resume(root: Path, kills: int, dice: random.Random) -> Killed:
    """Kill runs of both kinds so many times in all, and compare each in its end with one that nobody killed.

    Raises:
        AssertionError: a run ended in another way, or left something behind.
    """
    torch.set_num_threads(1)  # other threads would not outlive a fork
    make_inputs(root)
    os.environ["TMPDIR"] = str(root)
    count = Killed()
    with contextlib.chdir(root):
        whole = {name: _unbroken(root / "whole" / name, JOBS[name]) for name in JOBS}
        while count.kills < kills:
            name = dice.choice(list(JOBS))
            folder = root / "killed" / f"{count.runs}-{name}"
            _make(folder, JOBS[name])
            seconds, expected = whole[name]
            while count.kills < kills and not _done(folder, dice.uniform(0, 1.2 * seconds)):
                count.kills += 1
            _require_done(folder)
            _require_equal(_outcome(folder), expected, folder)
            count.runs += 1
    return count


def _make(folder: Path, job: object) -> None:
    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(registry.pack(job))


def _unbroken(folder: Path, job: object) -> tuple[float, dict[str, Any]]:
    """Seconds and outcome of a run that nobody kills, carried out twice: the first warms up."""
    _make(folder.with_name(f"{folder.name}-first"), job)
    _require_done(folder.with_name(f"{folder.name}-first"))
    _make(folder, job)
    began = time.monotonic()
    _require_done(folder)
    return time.monotonic() - began, _outcome(folder)


def _begin(folder: Path) -> int:
    """A process that carries out or resumes a run."""
    child = os.fork()
    if not child:
        code = 1
        try:
            execute(folder)
            code = 0
        finally:
            os._exit(code)
    return child


def _done(folder: Path, seconds: float) -> bool:
    """Carry out or resume a run for at most so long, then kill it; whether it came to its end."""
    child = _begin(folder)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert runs.read(folder).job is not None
    return False


def _require_done(folder: Path) -> None:
    """Let a run come to its end, if it has not."""
    if runs.read(folder).state != "done":
        os.waitpid(_begin(folder), 0)
    run = runs.read(folder)
    assert run.state == "done", f"{folder} is {run.state}: {run.error}\n{runs.log(folder)}"


def _outcome(folder: Path) -> dict[str, Any]:
    """All that a run has left, by name, without times and places."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("tensorboard/"):
            continue
        if name in ("log.txt", "status.json", "lock"):
            found[name] = None
        elif name == "metrics.jsonl":
            found[name] = [
                (point.what, point.step, dict(point.values)) for point in read_metrics(folder).points
            ]
        elif path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_bytes()))
        elif path.name != "README.md":
            found[name] = path.read_bytes()
    return found


def _timeless(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _timeless(value) for name, value in data.items() if name not in _TIMES}
    return data


def _require_equal(found: dict[str, Any], expected: dict[str, Any], folder: Path) -> None:
    """Check that two runs left the same files with the same content, and nothing lies beside this one."""
    assert found.keys() == expected.keys(), f"{folder}: {found.keys() ^ expected.keys()}"
    differ = [name for name, value in expected.items() if found[name] != value]
    assert not differ, f"{folder}: {differ} differ from those of a run that was not killed\n" + "\n".join(
        f"{found[name]}\n{expected[name]}"[:5000] for name in differ
    )
    litter = [
        path.name for path in (*folder.parent.iterdir(), *folder.iterdir()) if path.name.endswith(".part")
    ]
    litter += [path.name for path in Path(os.environ["TMPDIR"]).iterdir() if path.name.startswith(".")]
    assert not litter, f"{folder}: {litter} were left behind"
