"""What tests of bundles share: a report, a cut model, and a process that does not know this project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from analysis.models.preprocess import Preprocess
from analysis.vit import ViT
from pruning.cut.plan import Plan
from pruning.cut.ratios import Ratios, shrink
from pruning.cut.selection import Scores, select
from pruning.cut.surgery import cut
from tests.support.models import TINY

LABELS = tuple(f"shape {i}" for i in range(TINY.num_classes))
PREPROCESS = Preprocess(TINY.image_size, labels=LABELS, crop_pct=0.9)
REPORT = {
    "params_before": 5_717_416,
    "params_after": 3_013_000,
    "gmacs_before": 1.2537,
    "gmacs_after": 0.6382,
    "top1_before": 0.787,
    "top1_after": 0.51,
    "top1_low": 0.4536,
    "top1_high": 0.5661,
    "images": 300,
    "seconds": 12.34,
    "method": "snp",
    "ratios": {"qk": [0.25, 0.5], "v": 0.25, "mlp": 0.0, "heads": 0.0, "embed": 0.1},
}

# What a machine without this project looks like: every finder of modules is blind for these names.
ISOLATION = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = {"analysis", "pruning", "app", "timm", "torchvision", "onnx", "onnxruntime", "streamlit"}
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
sys.path.insert(0, "")
for name in ("timm", "analysis", "pruning"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} could be imported")
"""


def isolated(folder: Path, code: str, *arguments: str) -> str:
    """Standard output of a fresh process in a bundle's folder that knows nothing of this project."""
    command = [sys.executable, "-I", "-W", "error", "-c", ISOLATION + code, *arguments]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def prune(model: ViT) -> tuple[ViT, Plan]:
    """Every structure really cut, and query-key and value widths that differ."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    blocks = model.arch.blocks
    scores = Scores(
        qk=tuple(draw(widths.heads, widths.qk) for widths in blocks),
        v=tuple(draw(widths.heads, widths.v) for widths in blocks),
        mlp=tuple(draw(widths.mlp) for widths in blocks),
        heads=tuple(draw(widths.heads) for widths in blocks),
        embed=draw(model.arch.embed_dim),
    )
    ratios = Ratios(qk=(0.5, 0.25), v=0.25, mlp=0.4, heads=(0.34, 0), embed=0.2)
    plan = select(scores, model.arch, shrink(model.arch, ratios))
    return cut(model, plan), plan
