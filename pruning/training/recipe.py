"""What a training is made of: its settings, and timm's optimiser, schedule and average that follow."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from analysis.vit import ViT
from pruning.options import Options, choice_field, option_field, switch_field
from pruning.training.augment import STRENGTHS

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

PRECISIONS = ("auto", "float32", "bf16")
BASE_BATCH = 512  # images, to which `base_lr` refers


@dataclass(frozen=True)
class Training(Options):
    """How a model is trained: AdamW, warm-up and cosine, and what goes with them.

    The defaults suit a few epochs of fine-tuning a trained model [ours]: with DeiT's scaling of the
    learning rate by the batch, but a higher rate, as there is little time. `RECIPES` has other settings.
    """

    epochs: int = option_field(2, 1, 10_000, "How often all training images are seen")
    images: int = option_field(0, 0, 1_000_000_000, "Training images of one epoch; 0 for all there are")
    batch: int = option_field(64, 2, 65_536, "Images of one step, over all processes")
    base_lr: float = option_field(
        8e-4, 0.0, 1.0, "Highest learning rate for a batch of 512 images; in proportion for other batches"
    )
    lr: float = option_field(
        0.0, 0.0, 1.0, "Highest learning rate whatever the batch size; 0 to have it grow with the batch"
    )
    min_lr: float = option_field(0.01, 0.0, 1.0, "Learning rate at the end, as a fraction of the highest")
    weight_decay: float = option_field(0.05, 0.0, 10.0, "Weight decay of matrices (AdamW)")
    warmup: float = option_field(0.1, 0.0, 1.0, "Share of all steps in which the learning rate rises")
    layer_decay: float = option_field(
        1.0, 0.1, 1.0, "Learning rate of a block over that of the next; 1 for one rate"
    )
    clip: float = option_field(
        1.0, 0.0, 1e6, "Gradients with a longer norm over all weights are shortened to this; 0 turns it off"
    )
    augment: str = choice_field(
        "auto", STRENGTHS, "Random crops and more; auto is light, and none for the demo"
    )
    mixup: float = option_field(
        0.0, 0.0, 10.0, "Mixup's alpha: how far two images are blended; 0 turns it off"
    )
    cutmix: float = option_field(
        0.0, 0.0, 10.0, "CutMix's alpha: a part of one image in another; 0 turns it off"
    )
    smoothing: float = option_field(0.1, 0.0, 0.9, "Label smoothing: what all classes share of each label")
    drop_path: float = option_field(
        0.0, 0.0, 0.9, "Stochastic depth: how often the last block is skipped in training, earlier ones less"
    )
    ema: float = option_field(
        0.999, 0.0, 0.99999, "Average the weights over steps with this decay; 0 turns it off"
    )
    precision: str = choice_field(
        "auto",
        PRECISIONS,
        "Of the products; auto is bf16 on GPUs that have it. bf16 also helps CPUs with AVX512_BF16 or AMX",
    )
    compile: bool = switch_field(False, "torch.compile: faster steps after minutes of preparation")
    workers: int = option_field(
        -1, -1, 256, "Processes that read images; -1 for one on a CPU and eight on a GPU"
    )
    test_every: int = option_field(1, 1, 10_000, "Epochs between two measurements of top-1")
    checkpoint_seconds: int = option_field(
        60, 0, 86_400, "Seconds between checkpoints; 0 for one after every step"
    )

    @property
    def highest_lr(self) -> float:
        """`lr`, or `base_lr` in proportion to the batch [DeiT: Touvron et al. 2021, section 6]."""
        return self.lr or self.base_lr * self.batch / BASE_BATCH


def make_optimizer(model: ViT, options: Training) -> torch.optim.Optimizer:
    """AdamW by timm: matrices decay, vectors and tokens do not; each block may have its own rate."""
    from timm.optim import create_optimizer_v2

    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    last = model.arch.depth + 1
    for name, parameter in model.named_parameters():
        layer = _layer(name, last)
        decays = parameter.ndim > 1 and name.endswith("weight")
        group = {"params": [], "lr_scale": options.layer_decay ** (last - layer)}
        group["weight_decay"] = options.weight_decay if decays else 0.0
        groups.setdefault((layer, decays), group)["params"].append(parameter)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        list(groups.values()), "adamw", lr=options.highest_lr, weight_decay=options.weight_decay, fused=True
    )
    return optimizer


def _layer(name: str, last: int) -> int:
    """Depth of a parameter: 0 before the blocks, `last` behind them."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return last if name.startswith(("norm.", "fc_norm.", "head")) else 0


def make_schedule(optimizer: torch.optim.Optimizer, options: Training, steps: int) -> Any:
    """timm's cosine: before step s of n, counted from 0, call `step_update(s + 1)`.

    The rate rises in equal parts over the first `warmup` share of the steps, W of them, is highest
    in step W - 1, and then follows half a cosine that would be at `min_lr` of the highest at step n.
    """
    from timm.scheduler import CosineLRScheduler

    warmup = round(options.warmup * steps)
    return CosineLRScheduler(
        optimizer,
        t_initial=steps - warmup + 1,
        lr_min=options.min_lr * options.highest_lr,
        warmup_t=warmup,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def add_drop_paths(model: ViT, rate: float) -> None:
    """Stochastic depth in training mode (Huang et al. 2016), as hooks: the state dict stays as it is.

    Both halves of a block are skipped for one image at a time. The rate grows linearly from 0 in the
    first block to `rate` in the last [DeiT, timm].
    """
    from timm.layers import DropPath

    rates = torch.linspace(0, rate, model.arch.depth).tolist() if rate else []
    for block, own in zip(model.blocks, rates, strict=False):
        drop = DropPath(own).train()

        def skip(half: nn.Module, _: object, output: Tensor, drop: nn.Module = drop) -> Tensor:
            kept: Tensor = drop(output) if half.training else output
            return kept

        for half in (block.attn and block.attn.proj, block.mlp):
            if half is not None:
                half.register_forward_hook(skip)


def make_average(model: ViT, decay: float) -> ModelEmaV3 | None:
    """timm's moving average of the weights, of which the first steps are forgotten faster; None if off."""
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay, use_warmup=True) if decay else None


def batch_size(options: Training, images: int, processes: int) -> int:
    """Images of one step over all processes: fewer than asked for only where there are fewer.

    Raises:
        ValueError: it cannot be shared out evenly, or there are too few images.
    """
    unit = 2 * processes if processes > 1 or options.mixup or options.cutmix else 1
    if options.batch % unit:
        raise ValueError(
            f"with {processes} processes batch must be a multiple of {unit}, got {options.batch}"
        )
    size = min(options.batch, images - images % unit)
    if not size:
        raise ValueError(f"training needs at least {unit} images, got {images}")
    return size


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether products are computed in bfloat16.

    Raises:
        ValueError: asked for on a CPU that has no instructions for it, where it is far slower.
    """
    if precision == "bf16" and device.type == "cpu" and not _cpu_has_bf16():
        raise ValueError(
            "precision bf16 needs a GPU or a CPU with AVX512_BF16 or AMX: choose auto or float32"
        )
    fast = device.type != "cpu" and (device.type != "cuda" or torch.cuda.is_bf16_supported())
    return precision == "bf16" or (precision == "auto" and fast)


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies numbers in bfloat16 itself."""
    known = torch.cpu.get_capabilities()
    return any(known.get(name) for name in ("avx512_bf16", "amx_bf16"))


def precision_context(bf16: bool, device: torch.device) -> AbstractContextManager[object]:
    """In which the loss is computed: products in bfloat16, or everything as it is.

    PyTorch's fused attention is slow backwards in bfloat16 on a CPU, where plain products make a step of
    DeiT-Tiny at 37 tokens 1.5 times as fast (AMD EPYC with AVX512_BF16) [ours].
    """
    stack = ExitStack()
    stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=bf16))
    if bf16 and device.type == "cpu":
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
    return stack


def reading_workers(options: Training, device: torch.device) -> int:
    """Processes that read images ahead; a GPU is fed by more than a CPU, which has its own work."""
    if options.workers >= 0:
        return options.workers
    return 1 if device.type == "cpu" else min(8, os.cpu_count() or 1)
