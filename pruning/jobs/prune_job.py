"""A pruning run as data: `Job`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from analysis.formats import Stored
from analysis.models import Reading
from analysis.outputs import CLASSIFY, FEATURES, task_of
from analysis.vit import Architecture
from pruning.budget import Budget
from pruning.criteria import CRITERIA
from pruning.cut import (
    HeadLocks,
    Ratios,
    format_heads,
    merges_of,
    preset_ratios,
    require_align,
    require_narrowed,
    unmerged,
    with_merges,
)
from pruning.methods import METHODS, Request
from pruning.options import Options, Value, parse_option
from pruning.training import option_words, read_recovery

# What times a budget in ms: torch, or ONNX Runtime with the linear layers in float or in int8.
RUNTIMES = ("torch", "onnx", "onnx-int8")


@dataclass(frozen=True)
class Job(Stored):
    """Everything a pruning run depends on; frozen, hashable, to and from JSON.

    `model`, `weights` and `data` are what the command line takes. Ratios are given, or named by
    a published `preset`, or widths are found for a `budget`. `options` are pairs of the method's
    own options. Importance is measured on the calibration part of `data` and accuracy on its test
    part, unless `calibration` names another image set to measure importance on; then accuracy is
    measured on all of `data`.
    `limit` caps the test images. With `recovery`, pairs of `Recovery`'s options, the pruned model is
    fine-tuned with the dense one as teacher: on the training part of `data` (or all of `calibration`),
    and accuracy is then measured on the part held out. `compensate` refits `proj` and `fc2` after a
    selection. `heads_by` names a criterion that removes the heads first; the method then works
    inside those that stay. `locks` are heads that stay, or go, whatever ratios and scores say; where
    heads go by a lock, the method works inside the others, and a budget begins with the model they leave.
    With `skip_unread` the smaller model's last block computes only the tokens that the classifier reads
    (`Architecture.skip_unread`), where it reads tokens; a budget of GMACs counts on it, and one with
    room for all tokens keeps them. None: with a budget of GMACs, but never for a model without a classifier,
    whose patch tokens are among its features; one that is asked for it gives its pooled features alone.
    A budget in ms is timed by `runtime`, one of `RUNTIMES`, on this machine;
    or it is solved on the file `device` that a kit has written on another one (`pruning.kit`), which holds
    times of ONNX Runtime. None means torch, or ONNX Runtime in float with a device.
    `reading` says what the files of `model` do not. `tokens` are the patch tokens that each block merges: one
    number for all that can, or one per block, with any method; without a budget, None keeps the merging of
    the model itself.

    Raises:
        ValueError: a value of another type or out of its range, or an unknown method or option.
    """

    VERSION: ClassVar[int] = 5
    INDENT: ClassVar[int | None] = 2
    NEEDED: ClassVar[tuple[str, ...]] = ("ratios", "options")

    model: str
    data: str
    method: str = "snp"
    weights: str | None = None
    ratios: Ratios = Ratios()
    preset: str | None = None
    budget: Budget | None = None
    align: int = 1
    options: tuple[tuple[str, Value], ...] = ()
    calibration: str | None = None
    limit: int | None = None
    seed: int = 0
    recovery: tuple[tuple[str, Value], ...] | None = None
    compensate: bool = False
    heads_by: str | None = None
    locks: HeadLocks = HeadLocks()
    skip_unread: bool | None = False
    reading: Reading = Reading()
    runtime: str | None = None
    device: str | None = None
    tokens: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _known(self.method)
        if self.preset is not None and not self.ratios.removes_nothing:
            raise ValueError("give a preset or ratios, not both")
        if self.budget is not None and not (self.preset is None and self.ratios.removes_nothing):
            raise ValueError("give a budget, or ratios or a preset, not both: a budget finds the ratios")
        self._require_tokens()
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be at least 1 image, got {self.limit}")
        require_align(self.align)
        self._require_runtime()
        self._require_able()
        _ = self.method_options
        _ = read_recovery(self.recovery or ())

    def _require_tokens(self) -> None:
        if self.tokens is None:
            return
        if self.budget is not None:
            raise ValueError("give a budget, or tokens, not both: a budget finds the tokens to merge")
        if self.tokens == ():
            raise ValueError("tokens needs one number, or one for each block, got none")
        for count in self.tokens if isinstance(self.tokens, tuple) else (self.tokens,):
            if count < 0:
                raise ValueError(f"tokens must be whole numbers of at least 0, got {count}")

    def _require_runtime(self) -> None:
        if self.runtime is None and self.device is None:
            return
        if self.budget is None or self.budget.kind != "ms":
            raise ValueError("a runtime or a device belongs to a budget in ms only")
        if self.runtime is not None and self.runtime not in RUNTIMES:
            raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got {self.runtime!r:.60}")
        if self.device is not None and self.runtime == "torch":
            raise ValueError("a device is timed in ONNX Runtime: choose runtime onnx or onnx-int8, or none")

    def _require_able(self) -> None:
        method = METHODS[self.method]
        if self.compensate and not method.chooses:
            raise ValueError(f"{self.method} refits or trains already: leave out compensate")
        budget = self.budget
        if self.method == "tokens" and budget and (budget.kind == "params" or not budget.tokens):
            raise ValueError(
                "method tokens only merges tokens, which saves no parameters: give a budget in GMACs or ms "
                "that may merge them, or take another method"
            )
        if self.heads_by is None:
            return
        if self.heads_by not in CRITERIA or "heads" not in CRITERIA[self.heads_by].ranks:
            able = ", ".join(name for name, criterion in CRITERIA.items() if "heads" in criterion.ranks)
            raise ValueError(f"heads can be removed first by {able}, got heads_by {self.heads_by!r}")
        if not method.heads_first:
            raise ValueError(f"{self.method} ranks the heads itself: leave out heads-by")
        heads = self.ratios.heads
        if not any(heads if isinstance(heads, tuple) else (heads,)):
            raise ValueError("heads-by needs a ratio of heads to remove")

    @property
    def method_options(self) -> Options:
        """The method's options with the job's values in them."""
        kind = METHODS[self.method].options
        known = [option.name for option in fields(kind)]
        for name, _ in self.options:
            if name not in known:
                listed = f"it has {', '.join(known)}" if known else "it has none"
                raise ValueError(f"method {self.method} has no option {name!r}; {listed}")
        return kind(**dict(self.options))

    def target(self, dense: Architecture) -> Architecture:
        """The architecture this job asks for.

        Raises:
            ValueError: it asks for a budget (`solve` finds its widths), ratios or preset do not fit the
                model, the criterion cannot rank what they remove, or rounding undoes it.
        """
        if self.budget is not None:
            raise ValueError(
                "what a budget removes is found on images: use prune, or give ratios or a preset"
            )
        request, plain = self.request(dense), unmerged(dense)
        target = METHODS[self.method].target(plain, request)
        require_narrowed(plain, target, request.ratios, self.align)
        target = with_merges(target, merges_of(dense) if self.tokens is None else self.tokens)
        return self.without_unread(target)

    def without_unread(self, arch: Architecture) -> Architecture:
        """The same widths without the tokens that nothing reads, where the job leaves those out."""
        if not self.skips_unread(arch) or arch.pool != "token":
            return arch
        *before, last = arch.blocks  # which computes no patch tokens that could merge
        return replace(arch, blocks=(*before, replace(last, merge=0)), skip_unread=True)

    def skips_unread(self, arch: Architecture) -> bool:
        """Whether tokens that nothing reads are left out of a model: as asked for, or by default."""
        if self.skip_unread is None:
            return default_skip_unread(self.budget) and task_of(arch) == CLASSIFY
        return self.skip_unread

    def kept_output(self, dense: Architecture) -> Architecture:
        """The dense model that is aimed at: of a backbone the patch tokens only where they are to stay."""
        lean = self.skips_unread(dense) and dense.pool == "token" and task_of(dense) == FEATURES
        return self.without_unread(dense) if lean else dense

    def request(self, dense: Architecture) -> Request:
        """What the job asks of its method, a preset's ratios looked up.

        Raises:
            ValueError: a preset for another model.
        """
        ratios = self.ratios if self.preset is None else preset_ratios(self.preset, dense)
        return Request(
            ratios,
            self.method_options,
            self.align,
            self.locks,
            self.heads_by,
            self.compensate,
            self.seed,
        )

    @classmethod
    def upgraded(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Without the options of GOHSP's earlier schedule, which have no counterpart today.

        Budgets of jobs written before tokens could merge are solved as they were then, on widths alone.
        """
        budget = data.get("budget")
        if isinstance(budget, dict) and not {"tokens", "depth"} & budget.keys():
            data["budget"] = budget | {"tokens": False, "depth": False}
        options = data.get("options")
        if data.get("method") == "gohsp" and isinstance(options, list):
            gone = [[name] for name in _EARLIER_SCHEDULE]
            data["options"] = [pair for pair in options if not (isinstance(pair, list) and pair[:1] in gone)]
        return data

    def measured_alike(self) -> Job:
        """The job without all that plays no part in what is measured before anything is cut.

        Jobs of which this is equal score the same model on the same images in the same way.
        """
        return replace(
            self,
            ratios=Ratios(),
            preset=None,
            budget=None,
            align=1,
            limit=None,
            recovery=None,
            compensate=False,
            heads_by=None,
            locks=HeadLocks(remove=self.locks.remove),
            skip_unread=False,
            runtime=None,
            device=None,
            tokens=None,
        )

    @property
    def removes_nothing(self) -> bool:
        """Whether neither ratios, preset, budget, options nor locks ask for anything to go."""
        named = self.preset or self.budget or self.method_options.removes or self.locks.remove
        # tokens that are named may also undo what a model merges: only the model tells whether they change it
        return not named and self.tokens is None and self.ratios.removes_nothing

    @property
    def trains(self) -> bool:
        """Whether training images are learned from on the way: accuracy is then measured on others."""
        return self.recovery is not None or self.method_options.trains

    def command(self, out: str = "pruned") -> str:
        """The command line that does the same."""
        words = ["python", "-m", "pruning", "prune", "--model", self.model, "--data", self.data]
        words += ["--method", self.method, *self.reading.words()]
        given = {"weights": self.weights, "calibration": self.calibration, "preset": self.preset}
        given |= {name: _ratio_words(getattr(self.ratios, name)) for name in asdict(self.ratios)}
        given |= {
            "align": str(self.align) if self.align != default_align(self.budget) else None,
            "limit": str(self.limit) if self.limit else None,
            "tokens": _tokens_words(self.tokens),
            "seed": str(self.seed) if self.seed else None,
            "heads-by": self.heads_by,
            "keep-heads": format_heads(self.locks.keep),
            "remove-heads": format_heads(self.locks.remove),
            "runtime": self.runtime,
            "device": self.device,
        }
        given |= _budget_words(self.budget) if self.budget else {}
        for name, value in given.items():
            words += [f"--{name}", value] if value else []
        words += [
            f"--no-budget-{name}" for name in ("tokens", "depth") if not getattr(self.budget, name, True)
        ]
        for name, number in self.options:
            words += ["--option", f"{name}={number}"]
        words += ["--compensate"] if self.compensate else []
        words += ["--skip-unread"] if self.skip_unread else []
        if self.skip_unread is False and default_skip_unread(self.budget):
            words += ["--no-skip-unread"]
        if self.recovery is not None:
            words += ["--recover", *option_words(self.recovery)]
        return shlex.join([*words, "--out", out])


_EARLIER_SCHEDULE = ("rho", "growth")


def method_options(method: str, written: Iterable[tuple[str, str]]) -> tuple[tuple[str, Value], ...]:
    """Options of a method from what a user wrote, name and value.

    Raises:
        ValueError: an unknown method or option, or a value of another kind.
    """
    kind = METHODS[_known(method)].options
    return tuple((name, parse_option(kind, name, text)) for name, text in written)


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    return method


def default_align(budget: Budget | None) -> int:
    """What widths are rounded to unless told: multiples of 8 are fast, and a budget can afford them."""
    return 8 if budget else 1


def default_skip_unread(budget: Budget | None) -> bool:
    """Whether tokens that nobody reads are left out unless told: a budget of GMACs need not pay for them."""
    return budget is not None and budget.kind == "gmacs"


def _ratio_words(value: float | tuple[float, ...]) -> str | None:
    values = value if isinstance(value, tuple) else (value,)
    return ",".join(f"{number:g}" for number in values) if any(values) else None


def _budget_words(budget: Budget) -> dict[str, str | None]:
    defaults = {option.name: option.default for option in fields(Budget)}
    given = {name: value for name, value in asdict(budget).items() if value != defaults[name]}
    return {f"budget-{name}": str(value) for name, value in given.items() if not isinstance(value, bool)}


def _tokens_words(tokens: int | tuple[int, ...] | None) -> str | None:
    if tokens is None:
        return None
    return ",".join(map(str, tokens)) if isinstance(tokens, tuple) else str(tokens)
