"""The valid files that cases begin with, all made by the project: models, images, runs of every kind."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from analysis.data.scenes import CLASSES
from analysis.models.preprocess import Preprocess
from analysis.vit import BlockWidths
from pruning.bundle.write import write_bundle
from pruning.cut.ratios import Ratios
from pruning.jobs import registry
from pruning.jobs.bench import BenchJob
from pruning.jobs.heads import HeadsJob
from pruning.jobs.prune_job import Job
from pruning.jobs.recover import RecoverJob
from pruning.jobs.survey import SurveyJob
from pruning.jobs.trial import TrialJob
from pruning.progress import Cancelled
from pruning.runs import folder as runs
from pruning.runs.process import execute
from tests.fuzz.cases import Blob, Valid
from tests.support.devices import made_up, price
from tests.support.models import TINY, random_vit

ARCH = replace(TINY, image_size=(64, 64), patch_size=(16, 16))
SMALL = replace(ARCH, blocks=(BlockWidths(3, 5, 7, 20), BlockWidths(2, 9, 4, 11)))
PREPROCESS = Preprocess(ARCH.image_size, labels=CLASSES)
FEW = tuple({"epochs": 1, "batch": 10, "workers": 0, "lr": 1e-3}.items())

JOBS = {
    "prune": Job("tiny", "set", "l2", ratios=Ratios(mlp=0.5, heads=0.4)),
    "recover": RecoverJob("small", "tiny", "set", options=FEW),
    "bench": BenchJob((("tiny", None), ("small", None)), batches=(1,), rounds=3),
    "survey": SurveyJob("tiny", "set", "l2", images=4),
    "heads": HeadsJob("tiny", "set", images=4),
    "trial": TrialJob(Job("tiny", "set", "l2", ratios=Ratios(mlp=0.5)), images=4),
    "open": RecoverJob("small", "tiny", "set", options=(*FEW, ("epochs", 3))),
}


def make(root: Path) -> None:
    """Write all of them into an empty folder."""
    make_inputs(root)
    state = dict(random_vit(ARCH).state_dict())
    torch.save({"model": state, "epoch": 3}, root / "weights.pth")
    torch.save(state, root / "old.pt", _use_new_zipfile_serialization=False)
    save_file(state, root / "weights.safetensors")
    arrays: Any = {name: value.numpy() for name, value in state.items()}
    np.savez(root / "weights.npz", **arrays)
    write_transformers(root / "transformers")
    (root / "device.json").write_text(made_up(ARCH, price()).to_json())
    _zip(root / "set", root / "set.zip")
    _write_tabled(root / "tabled")
    _write_parquet(root / "set.parquet")
    for side in ("train", "test"):
        (root / "cifar").mkdir(exist_ok=True)
        shutil.copy(root / "set.zip", root / "cifar" / f"cifar10-jpeg-{side}.zip")
    with contextlib.chdir(root):
        for name, job in JOBS.items():
            _run(Path("runs", name), job)


def write_transformers(folder: Path) -> None:
    """A ViTForImageClassification as transformers writes it."""
    config = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "image_size": 64,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "id2label": dict(enumerate(CLASSES)),
    }
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 64, "width": 64},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, 24),
        "vit.embeddings.position_embeddings": (1, 17, 24),
        "vit.embeddings.patch_embeddings.projection.weight": (24, 3, 16, 16),
        "vit.embeddings.patch_embeddings.projection.bias": (24,),
    }
    layer = "vit.encoder.layer.0."
    parts = {f"{layer}attention.attention.{part}": (24, 24) for part in ("query", "key", "value")}
    parts |= {f"{layer}attention.output.dense": (24, 24), f"{layer}intermediate.dense": (32, 24)}
    parts |= {f"{layer}output.dense": (24, 32), "classifier": (len(CLASSES), 24)}
    for name, shape in parts.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for norm in (f"{layer}layernorm_before", f"{layer}layernorm_after", "vit.layernorm"):
        shapes |= {f"{norm}.weight": (24,), f"{norm}.bias": (24,)}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    save_file({name: torch.rand(shape) for name, shape in shapes.items()}, folder / "model.safetensors")


def make_inputs(root: Path) -> None:
    """Write the models and images of runs."""
    for name, arch in (("tiny", ARCH), ("small", SMALL)):
        write_bundle(root / name, random_vit(arch), PREPROCESS, name=name, report={})
    _write_images(root / "set")


def _write_images(folder: Path) -> None:
    dice = np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number in range(4):
            pixels = dice.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.jpg")


def _write_tabled(folder: Path) -> None:
    """Images in no class folders, with a table of their classes."""
    folder.mkdir()
    for name in CLASSES:
        Image.new("RGB", (64, 64), "grey").save(folder / f"{name}.jpg")
    rows = "".join(f"{name}.jpg,{name}\n" for name in CLASSES)
    (folder / "labels.csv").write_text(f"file,label\n{rows}")


def _write_parquet(file: Path) -> None:
    """Images in two row groups; without pyarrow a damaged file."""
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ImportError:
        file.write_bytes(b"PAR1")
        return
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), "grey").save(picture, "JPEG")
    images = [{"bytes": picture.getvalue(), "path": f"{name}.jpg"} for name in CLASSES]
    write_table(pyarrow.table({"image": images, "label": list(range(len(CLASSES)))}), file, row_group_size=5)


def _zip(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*.jpg")):
            archive.write(path, path.relative_to(folder.parent).as_posix())


def _run(folder: Path, job: object) -> None:
    """Carry out a run; the one called `open` is left off in its training, with a checkpoint."""

    def progress(what: str, share: float) -> None:
        if folder.name == "open" and share > 0.7 and any((folder / "checkpoint").glob("*")):
            raise Cancelled

    folder.mkdir(parents=True)
    (folder / runs.JOB).write_text(registry.pack(job))
    with contextlib.suppress(Cancelled):
        execute(folder, progress=progress)


def files(root: Path) -> Valid:
    """All valid files by their path inside the folder."""
    found = (Path(place, name) for place, _, names in os.walk(root) for name in names)
    return Valid({path.relative_to(root).as_posix(): Blob(path.read_bytes()) for path in sorted(found)})
