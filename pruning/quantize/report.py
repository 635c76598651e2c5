"""`model.int8.json`: what a quantised file costs in accuracy, and what it gains in size and time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from analysis.formats import Stored
from analysis.measure import CLASSES, PairedChange, Timing
from pruning.quantize.choose import Trial


@dataclass(frozen=True)
class QuantizedReport(Stored):
    """A quantised file measured against the float file of the same model, in the same runtime.

    `top1_change` is the paired change of top-1 from float to int8 on the test images, `agreement` the share
    of equal predictions, `kl` the mean KL divergence of int8 from float in nats. `timings[batch]` compares
    int8 (a) with float (b), timed in turns: `speedup` is how many times faster int8 is. `smoothing` is the
    alpha of SmoothQuant, `floating` names the layers left in float, and `tried` are all trials from which
    both were chosen; other tools than ours leave them empty. `measure` says what top-1 is about
    (`Evaluation.measure`): that of features is by neighbours, and `kl` the mean of 1 - cos of pooled ones.

    Raises:
        ValueError: a value of another type, or one that cannot be.
    """

    VERSION: ClassVar[int] = 2
    INDENT: ClassVar[int | None] = 1

    format: str
    file: str
    runtime: str
    calibration: str
    calibration_images: int
    data: str
    images: int
    top1_float: float
    top1_int8: float
    top1_change: PairedChange
    agreement: float
    kl: float
    bytes_float: int
    bytes_int8: int
    threads: int
    timings: Mapping[int, Timing]
    smoothing: float | None = None
    floating: tuple[str, ...] = ()
    tried: tuple[Trial, ...] = ()
    measure: str = CLASSES

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top1_float", "top1_int8", "agreement"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be a fraction from 0 to 1, got {getattr(self, name)}")
        for name in ("images", "calibration_images", "bytes_float", "bytes_int8", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
