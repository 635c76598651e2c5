"""Train the demo model on scenes, from scratch, on a CPU.

    python benchmarks/train_demo.py --steps 8000 --out build/demo

The class token learns the shape. During training only, a second head predicts for every patch token
which fraction of its patch the shape covers (token labelling, Jiang et al. 2021), which makes this small
ViT learn several times faster. The learning rate warms up, stays constant, and decays linearly to zero
over the last quarter; until the decay begins, resuming with another --steps does not change the run. If
the script is killed, the same command continues from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from results import machine
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from analysis.data import CALIBRATION_IMAGES, CLASSES, SIZE, batches, open_data, render
from analysis.measure import cost, evaluate
from analysis.models import ARCHITECTURE_FILE, DEMO, PREPROCESS_FILE, WEIGHTS_FILE, Preprocess, load
from analysis.vit import Architecture, BlockWidths, ViT

PATCH = 8
ARCHITECTURE = Architecture(
    image_size=(SIZE, SIZE),
    patch_size=(PATCH, PATCH),
    embed_dim=192,
    blocks=(BlockWidths(heads=6, qk=32, v=32, mlp=768),) * 6,
    num_classes=len(CLASSES),
    scale=32**-0.5,
)
PATCH_LOSS = 0.5

CARD = """\
---
library_name: prunescope
pipeline_tag: image-classification
license: apache-2.0
tags: [vision-transformer, image-classification, safetensors]
---

# PruneScope demo

A Vision Transformer of 6 blocks x 6 heads, embedding 192, patch 8, {params} parameters and {gmacs} GMACs,
that recognises which of ten bright shapes a 64 x 64 scene shows. The scenes are rendered by
`analysis/data/scenes.py`; nothing else was used to train it.

Top-1 on the fixed test split: **{top1}** (95 % Wilson interval {interval}, {images} scenes, with the stored
half-precision weights).

Trained from scratch by

    {command}

AdamW, weight decay 0.05, label smoothing 0.05, gradient norm 1, weights averaged (EMA 0.999); {seen} scenes,
each seen once. Training was paused and resumed, and shared the machine with other work: {minutes} minutes of
wall time in all. {date}, {machine}.
"""


class SceneStream(Dataset[tuple[Tensor, int, Tensor]]):
    """Scenes start .. stop - 1 as (image, label, fraction of each patch that the shape covers)."""

    def __init__(self, split: str, start: int, stop: int) -> None:
        self.split, self.start, self.stop = split, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor]:
        scene = render(self.split, self.start + index)
        image = torch.from_numpy(scene.image).permute(2, 0, 1).float().div_(127.5).sub_(1)
        mask = torch.from_numpy(scene.mask).float()
        share = F.avg_pool2d(mask[None, None], PATCH).flatten()  # N
        return image, scene.label, share


class Student(nn.Module):
    """The ViT, and the patch head that is used in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = ViT(ARCHITECTURE)
        self.vit.init_weights()
        self.patch_head = nn.Linear(ARCHITECTURE.embed_dim, len(CLASSES) + 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.vit.embed(images)
        for block in self.vit.blocks:
            x, _ = block(x)
        return self.vit.classify(x), self.patch_head(self.vit.norm(x)[:, 1:])


def loss_of(logits: Tensor, patch_logits: Tensor, label: Tensor, share: Tensor) -> Tensor:
    """Cross-entropy of the class token plus that of the patch tokens against their soft labels."""
    target = F.one_hot(label, len(CLASSES) + 1)[:, None] * share[..., None]  # B N classes+1
    target[..., -1] = 1 - share
    patches = F.cross_entropy(patch_logits.flatten(0, 1), target.flatten(0, 1))
    return F.cross_entropy(logits, label, label_smoothing=0.05) + PATCH_LOSS * patches


def rate_at(step: int, steps: int, peak: float, warmup: int = 400) -> float:
    """Learning rate: linear warm-up, constant, linear decay over the last quarter."""
    return peak * min(1.0, (step + 1) / warmup, (steps - step) / (steps / 4))


@torch.inference_mode()
def accuracy(model: ViT, split: str, images: int) -> float:
    model.eval()
    right = 0
    for batch, label, _ in DataLoader(SceneStream(split, 0, images), batch_size=128):
        right += int((model(batch).argmax(-1) == label).sum())
    return right / images


def train(args: argparse.Namespace) -> tuple[ViT, float]:
    """Train, from the checkpoint if there is one; returns the averaged (EMA) model and the seconds spent."""
    torch.manual_seed(args.seed)
    student = Student()
    ema: Any = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    decayed = [p for p in student.parameters() if p.ndim > 1]
    others = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, fused=True)
    checkpoint = args.out / "checkpoint.pt"
    start, seconds, spent = 0, 0.0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        student.load_state_dict(state["student"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
        spent = seconds
    forward = torch.compile(student) if args.compile else student
    stream = SceneStream("train", start * args.batch, args.steps * args.batch)
    began = time.perf_counter()
    loader = DataLoader(stream, batch_size=args.batch, num_workers=1, prefetch_factor=8)
    for step, (images, label, share) in enumerate(loader, start=start):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, args.steps, args.lr)
        logits, patch_logits = forward(images)
        loss = loss_of(logits, patch_logits, label, share)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        ema.update_parameters(student)
        if (step + 1) % args.every == 0 or step + 1 == args.steps:
            spent = seconds + time.perf_counter() - began
            line = {"step": step + 1, "loss": round(loss.item(), 4), "seconds": round(spent)}
            line["calibration_top1"] = accuracy(ema.module.vit, "calibration", CALIBRATION_IMAGES)
            print(json.dumps(line), flush=True)
            state = {"student": student.state_dict(), "ema": ema.state_dict(), "step": step + 1}
            state |= {"optimizer": optimizer.state_dict(), "seconds": spent}
            partial = checkpoint.with_suffix(".partial")
            torch.save(state, partial)
            partial.replace(checkpoint)
    return ema.module.vit, spent


def write_demo(model: ViT, args: argparse.Namespace, seconds: float) -> None:
    """Store the model in half precision, with a card that gives the accuracy of the stored weights."""
    DEMO.mkdir(exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, DEMO / WEIGHTS_FILE)
    (DEMO / ARCHITECTURE_FILE).write_text(ARCHITECTURE.to_json())
    (DEMO / PREPROCESS_FILE).write_text(Preprocess((SIZE, SIZE), labels=CLASSES).to_json())
    loaded = load("demo")
    tested = open_data("demo", loaded.preprocess, len(CLASSES), "test")
    result = evaluate(loaded.model, batches(tested, loaded.preprocess, 100))
    low, high = result.top1_low, result.top1_high
    print(f"top-1 {result.top1:.2%} ({low:.2%} to {high:.2%}) on {result.images} test scenes")
    command = f"--steps {args.steps} --batch {args.batch} --lr {args.lr:g} --seed {args.seed}"
    figures = {
        "params": f"{cost(ARCHITECTURE).params:,}",
        "gmacs": f"{cost(ARCHITECTURE).gmacs:.4f}",
        "top1": f"{result.top1:.2%}".replace("%", " %"),
        "interval": f"{low:.2%} to {high:.2%}".replace("%", " %"),
        "images": f"{result.images:,}",
        "command": f"python benchmarks/train_demo.py {command}" + (" --compile" if args.compile else ""),
        "seen": f"{args.steps * args.batch:,}",
        "minutes": f"{seconds / 60:.0f}",
        "machine": machine(),
        "date": date.today().isoformat(),
    }
    (DEMO / "README.md").write_text(CARD.format(**figures), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--compile", action="store_true", help="torch.compile (needs a C++ compiler)")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model, seconds = train(args)
    write_demo(model, args, seconds)


if __name__ == "__main__":
    main()
