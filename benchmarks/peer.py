"""Torch-Pruning on DeiT-Tiny, without training, at the GMACs of zero_shot.py and on the same photos.

    python -m pip install -r benchmarks/requirements.txt
    PRUNESCOPE_DATA=FOLDER python benchmarks/peer.py --write

First as in Torch-Pruning's example for timm's ViTs (examples/transformers/prune_timm_vit.py), which fails
with current timm; then with timm's attributes corrected by hand. Several settings are tried at every size
on some of the test photos, and the best one is evaluated on all of them. Needs torch-pruning 1.6.1, a
dependency of this script alone.
"""

from __future__ import annotations

import copy
import inspect
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F
from results import changed, deit_tiny, parser, percent, report, table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from analysis.data import ImageSet, batches, open_data
from analysis.measure import Batches, Evaluation, evaluate, paired_change
from analysis.models import LoadedModel, load, read_weights

import timm  # isort: skip  # after analysis.models, which repairs a torchvision built for another torch
import torch_pruning as tp  # isort: skip
from timm.models.vision_transformer import Attention  # isort: skip

GMACS = (1.02, 0.92, 0.82, 0.71, 0.58, 0.45, 0.35)
STEPS = 400  # pruning ratios are multiples of 1 / STEPS
BATCH = 32
CLOSE = 0.005  # the search for a ratio ends within this many GMACs above the target
WIDEST_GAP = 0.02  # a setting that misses the target by more GMACs than this is left out at that size


@dataclass(frozen=True)
class Setting:
    """Options of Torch-Pruning's pruner and of its Taylor criterion.

    With `inner`, layers that write to the residual stream are ignored, so that only widths inside
    attention and MLP shrink.
    """

    title: str
    inner: bool = True
    pruner: dict[str, Any] = field(default_factory=dict)
    criterion: dict[str, Any] = field(default_factory=dict)


SETTINGS = (
    Setting("everything, as the example", inner=False),
    Setting("everything, global", inner=False, pruner={"global_pruning": True}),
    Setting("everything, isomorphic", inner=False, pruner={"global_pruning": True, "isomorphic": True}),
    Setting("inner widths"),
    Setting("inner widths, multivariable Taylor", criterion={"multivariable": True}),
    Setting("inner widths, global", pruner={"global_pruning": True}),
    Setting("inner widths, isomorphic", pruner={"global_pruning": True, "isomorphic": True}),
    Setting("MLP alone (no prune_head_dims)", pruner={"prune_head_dims": False}),
)


def add_gradients(model: nn.Module, labelled: Batches) -> None:
    """Accumulate the gradients that the Taylor criterion reads, as in the example."""
    model.zero_grad()
    for images, labels in labelled:
        F.cross_entropy(model(images), labels).backward()


def narrowed(dense: nn.Module, ratio: float, setting: Setting) -> nn.Module:
    """A copy of a timm ViT with gradients, pruned by Torch-Pruning and repaired so that it runs."""
    model = copy.deepcopy(dense)
    for new, old in zip(model.parameters(), dense.parameters(), strict=True):
        new.grad = old.grad  # copies have none
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    ignored = [model.head]
    if setting.inner:
        blocks: Any = model.blocks
        ignored += [layer for block in blocks for layer in (block.attn.proj, block.mlp.fc2)]
    pruner = tp.pruner.MetaPruner(
        model,
        torch.randn(1, 3, 224, 224),
        importance=tp.importance.GroupTaylorImportance(**setting.criterion),
        pruning_ratio=ratio,
        ignored_layers=ignored,
        num_heads={attention.qkv: attention.num_heads for attention in attentions},
        **setting.pruner,
    )
    pruner.step()
    for attention in attentions:
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.attn_dim = attention.qkv.out_features // 3
        attention.head_dim = attention.attn_dim // attention.num_heads
        # keeps the dense model's `scale`; fused attention would derive one from the narrower head
        attention.fused_attn = False
    return model


def user_code() -> int:
    """Lines that a user of Torch-Pruning has to write: the two functions above without comments."""
    return sum(_lines(function) for function in (add_gradients, narrowed))


def _lines(function: Callable[..., object]) -> int:
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    return sum(bool(line) and not line.startswith(("#", '"""')) for line in lines)


def documented(dense: nn.Module) -> list[str]:
    """What happens when the example is followed, adapted step by step to the installed versions."""
    attempts = (
        ("as written", "ignored_layer_outputs", False),
        ("with `ignored_layers`, and the example's `forward` for attention", "ignored_layers", True),
        ("with `ignored_layers`, and timm's own `forward`", "ignored_layers", False),
    )
    words = []
    for title, ignore, replaced in attempts:
        try:
            _by_example(dense, ignore, replaced)
        except (TypeError, RuntimeError) as error:
            words.append(f"{title}: `{type(error).__name__}: {error}`")
        else:
            words.append(f"{title}: runs")
    return words


def _by_example(dense: nn.Module, ignore: str, replaced: bool) -> None:
    model, images = copy.deepcopy(dense), torch.randn(1, 3, 224, 224)
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    pruner = tp.pruner.MetaPruner(
        model,
        images,
        importance=tp.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.2,
        num_heads={attention.qkv: attention.num_heads for attention in attentions},
        **{ignore: [model.head]},
    )
    pruner.step()
    for attention in attentions:
        attention.num_heads = pruner.num_heads[attention.qkv]
        attention.head_dim = attention.qkv.out_features // (3 * attention.num_heads)
        if replaced:
            attention.forward = _one_argument.__get__(attention)
    model(images)


def _one_argument(self: Attention, x: Tensor) -> Tensor:
    """A `forward` that takes the tokens alone, as the example's does."""
    q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
    return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def gmacs(model: nn.Module) -> float:
    """GMACs of one image as counted by torch; attention must not be fused."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(1, 3, 224, 224))
    return counter.get_total_flops() / 2e9


class Search:
    """Searches for pruning ratios by GMACs; remembers the GMACs of every model built on the way."""

    def __init__(self, dense: nn.Module) -> None:
        self.dense, self.gmacs = dense, gmacs(dense)
        self._known: dict[str, dict[int, float]] = {setting.title: {0: self.gmacs} for setting in SETTINGS}

    def find(self, setting: Setting, asked: float) -> float | None:
        """A ratio that leaves `asked` GMACs or up to `CLOSE` more; up to `WIDEST_GAP` where ratios jump.

        None if there is no such ratio.
        """
        known = self._known[setting.title]
        low, high = self._bracket(known, asked)
        while known[low] > asked + CLOSE and high - low > 1:
            step = max(low + 1, min(high - 1, self._guess(known, low, high, asked + CLOSE / 2)))
            known[step] = self._measure(setting, step)
            low, high = self._bracket(known, asked)
        return low / STEPS if known[low] <= asked + WIDEST_GAP else None

    @staticmethod
    def _bracket(known: dict[int, float], asked: float) -> tuple[int, int]:
        """The last step known to leave enough GMACs, and the first after it that leaves too few."""
        high = min((step for step, left in known.items() if left < asked), default=STEPS)
        return max(step for step, left in known.items() if step < high and left >= asked), high

    def _guess(self, known: dict[int, float], low: int, high: int, wanted: float) -> int:
        """Interpolate between two known steps; until there are two, use a typical slope."""
        if known.get(high):
            share = (known[low] - wanted) / (known[low] - known[high])
            return round(low + share * (high - low))
        if high in known:  # the model at `high` does not run, so there is nothing to interpolate
            return (low + high) // 2
        slope = (self.gmacs - known[low]) / low if low else 1.5 * self.gmacs / STEPS
        return round(low + (known[low] - wanted) / max(slope, 1e-6))

    def _measure(self, setting: Setting, step: int) -> float:
        try:
            return gmacs(narrowed(self.dense, step / STEPS, setting))
        except (RuntimeError, ZeroDivisionError, AttributeError) as error:  # a layer is left with no width
            _log(f"{setting.title}, ratio {step / STEPS}: {type(error).__name__}: {error}")
            return 0.0


@dataclass(frozen=True)
class Tried:
    """The result of one setting at one size, on the photos used to compare settings."""

    asked: float
    setting: Setting
    ratio: float
    top1: float


class Peer:
    """Torch-Pruning with the dense timm model, its gradients, and the photos."""

    def __init__(self, images: int, tried_on: int, limit: int | None) -> None:
        job = deit_tiny()
        weights = Path(str(job.weights))
        self.loaded: LoadedModel = load(job.model, weights)
        calibration, self.test = (self._open(spec) for spec in (job.calibration, job.data))
        self.test = self.test.sample(limit) if limit else self.test
        self.some = self.test.sample(tried_on)
        self.dense = timm.create_model(job.model).eval()
        self.dense.load_state_dict(read_weights(weights))
        for module in self.dense.modules():
            if isinstance(module, Attention):
                module.fused_attn = False
        began = time.process_time()
        add_gradients(self.dense, self._batches(calibration.sample(images)))
        self.gradient_seconds = time.process_time() - began
        self.search = Search(self.dense)

    def evaluate(self, model: nn.Module) -> Evaluation:
        return evaluate(model, self._batches(self.test))

    def compare(self, asked: float) -> list[Tried]:
        """Every setting that reaches these GMACs, the best first."""
        tried = []
        for setting in SETTINGS:
            ratio = self.search.find(setting, asked)
            if ratio is None:
                _log(f"{asked} {setting.title}: no ratio reaches these GMACs")
                continue
            model = narrowed(self.dense, ratio, setting)
            tried.append(Tried(asked, setting, ratio, evaluate(model, self._batches(self.some)).top1))
            _log(
                f"{asked} {setting.title}, ratio {ratio:.4f}: {gmacs(model):.3f} GMACs, {tried[-1].top1:.3f}"
            )
        if not tried:
            raise ValueError(f"no setting of Torch-Pruning reaches {asked} GMACs")
        return sorted(tried, key=lambda one: one.top1, reverse=True)

    def row(self, best: Tried, full: Evaluation) -> list[str]:
        """Prune once more with the best setting, timed, and evaluate on all photos."""
        began = time.process_time()
        model = narrowed(self.dense, best.ratio, best.setting)
        seconds = time.process_time() - began + self.gradient_seconds
        found = self.evaluate(model)
        shown = changed(found.top1, paired_change(full, found))
        share = f"{found.top1 / full.top1:.1%}".replace("%", " %")
        _log(f"{best.asked}: {shown}")
        return [
            f"{best.asked:.2f}",
            f"{gmacs(model):.3f}",
            shown,
            share,
            f"{best.setting.title}, ratio {best.ratio:.3f}",
            f"{seconds:.0f}",
        ]

    def _open(self, spec: str | None) -> ImageSet:
        return open_data(str(spec), self.loaded.preprocess, self.loaded.model.arch.num_classes)

    def _batches(self, images: ImageSet) -> Batches:
        return batches(images, self.loaded.preprocess, BATCH)


def settings_table(tried: list[list[Tried]]) -> str:
    """Top-1 of every setting at every size, on the photos used to choose the best."""
    rows = []
    for setting in SETTINGS:
        found = [{one.setting.title: one.top1 for one in size}.get(setting.title) for size in tried]
        rows.append([setting.title, *("–" if top1 is None else f"{top1:.1%}" for top1 in found)])
    rows = [[cell.replace("%", " %") for cell in row] for row in rows]
    return table(["Setting", *(f"{size[0].asked:.2f}" for size in tried)], rows)


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--images", type=int, default=256, help="calibration images for the gradients")
    arguments.add_argument("--tried-on", type=int, default=100, help="test images used to compare settings")
    arguments.add_argument("--limit", type=int, help="number of test images (default: all)")
    arguments.add_argument("--gmacs", type=float, nargs="+", default=GMACS)
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    code = user_code()
    warnings.filterwarnings("ignore", "Unwrapped parameters detected", UserWarning)
    peer = Peer(args.images, args.tried_on, args.limit)
    errors = documented(peer.dense)
    _log("\n".join(errors))
    full = peer.evaluate(peer.dense)
    tried = [peer.compare(asked) for asked in args.gmacs]
    rows = [peer.row(size[0], full) for size in tried]
    body = (
        f"Torch-Pruning {version('torch-pruning')} with timm {timm.__version__}. Top-1 of DeiT-Tiny "
        f"without training, with the paired change against the dense model, its 95 % interval and the "
        f"p-value of the same test (McNemar), on {full.images} photos, an easy subset of "
        f"the ImageNet-1k validation set. Dense: {percent(full.top1, full.top1_low, full.top1_high)} "
        f"at {peer.search.gmacs:.2f} GMACs. "
        f"Criterion: GroupTaylorImportance, gradients of {args.images} calibration photos of ten classes "
        "with their true labels, none of them a test photo. The pruning ratio is chosen by search so that "
        "the model has the target GMACs or slightly more. The setting at each size is the best on "
        f"{len(peer.some)} of the test photos, which favours the peer.\n\n"
        + table(["GMACs, target", "GMACs", "Top-1", "Of dense", "Best setting", "Processor s"], rows)
        + "\n\nProcessor seconds: gradients and one pruning, without the search for the ratio. "
        f"User code: {code} lines (`add_gradients` and `narrowed` of this script), without the search. "
        "Torch-Pruning ties the widths of queries, keys and values and removes the same channels in every "
        "head.\n\n"
        "What happens when its example for timm's ViTs is followed:\n\n"
        + "\n".join(f"- {line}" for line in errors)
        + f"\n\nTop-1 of every setting on {len(peer.some)} of the photos, by target GMACs; – where no ratio "
        f"comes within {WIDEST_GAP} of the target:\n\n" + settings_table(tried)
    )
    report("Peer: Torch-Pruning, DeiT-Tiny", body, args.write)


if __name__ == "__main__":
    main()
