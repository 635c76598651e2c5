"""CIFAR-10 (JPEG) from scratch: a dense ViT, and 40 % fewer parameters by GOHSP and by spectral + recovery.

    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size cpu --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size full --write    # on a GPU, in bfloat16

One dense model is trained for --epochs. Three models are then trained from it for --more epochs each, so
that all have seen the same number of images: the dense model itself, GOHSP (some of the epochs before the
cut, the rest after), and the model pruned by the spectral method. All three use the same data and recipe.
If the script is killed, the same command continues from the last checkpoint in --keep; finished phases are
not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import ROOT, data_folder, parser, percent, report, table

from analysis.data import ImageSet, batches, open_training
from analysis.measure import cost, evaluate
from analysis.models import LoadedModel, Preprocess, load
from analysis.vit import Architecture, BlockWidths, ViT
from pruning.budget import Budget
from pruning.bundle import find_report, is_bundle, write_bundle
from pruning.cut import Ratios
from pruning.gohsp import GohspOptions, TrainingData, gohsp
from pruning.jobs import Job, Prepared, make_smaller
from pruning.progress import Monitor
from pruning.seeding import fingerprint
from pruning.training import Objective, Recovery, recover, train

REMOVED = 0.4  # of the parameters
HEADS = Ratios(heads=1 / 6, qk=0.25)  # what GOHSP removes besides value channels and neurons
BEFORE_CUT = 0.5  # fraction of GOHSP's further training that comes before the cut, by ADMM
CURVE_IMAGES = 1000  # test images for the curve; the table uses all of them
CURVE = "curve.jsonl"
TITLES = {"dense": "Dense", "gohsp": "GOHSP", "spectral": "Spectral + recovery"}


@dataclass(frozen=True)
class Size:
    """A network, its training recipe, and how long it is trained by default."""

    words: str
    embed: int
    depth: int
    recipe: Recovery
    epochs: float
    more: float
    point: int  # at most so many images between two points of the curve

    @property
    def arch(self) -> Architecture:
        """Six heads, patches of 4 x 4 pixels, average pooling over the tokens."""
        width = self.embed // 6
        return Architecture(
            image_size=(32, 32),
            patch_size=(4, 4),
            embed_dim=self.embed,
            blocks=(BlockWidths(6, width, width, 4 * self.embed),) * self.depth,
            num_classes=10,
            scale=width**-0.5,
            class_token=False,
            pool="avg",
            norm_before_pool=False,
        )


SIZES = {
    "full": Size(
        "ViT-Small/4 (12 blocks, 6 heads, E 384)",
        embed=384,
        depth=12,
        recipe=Recovery(
            batch=512, lr=1e-3, mixup=0.8, cutmix=1.0, smoothing=0.1, augment="strong", soft=0.5, features=0.0
        ),
        epochs=100,
        more=50,
        point=250_000,
    ),
    "cpu": Size(
        "a smaller ViT/4 (6 blocks, 6 heads, E 192), far from fully trained: the size that a CPU can finish",
        embed=192,
        depth=6,
        recipe=Recovery(batch=64, lr=1e-3, smoothing=0.1, ema=0.0, soft=0.0, features=0.0),
        epochs=2,
        more=0.65,
        point=10_000,
    ),
}


class Curve(Monitor):
    """Keeps checkpoints and a training curve in a folder, and adds up the seconds of all attempts.

    On a CPU, which other processes usually share, these are processor seconds of this process.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder: Path = folder
        self.clock: Callable[[], float] = (
            time.perf_counter if torch.cuda.is_available() else time.process_time
        )
        self.before = max((row["seconds"] for row in self.rows()), default=0.0)
        self.began = self.clock()

    def rows(self) -> list[dict[str, float]]:
        """The points written so far; of a step that was repeated, the last one."""
        file = self.folder / CURVE
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        rows: dict[tuple[float, bool], dict[str, float]] = {}
        for line in lines:
            if line.endswith("}"):  # a killed process may have left half a line
                row = json.loads(line)
                rows[row["step"], "top1" in row] = row
        return [rows[key] for key in sorted(rows)]

    @property
    def seconds(self) -> float:
        """Seconds spent so far, including earlier attempts."""
        return self.before + self.clock() - self.began

    def metrics(self, step: int, **values: float) -> None:
        """Append one line to the curve, and print it."""
        line = json.dumps({"step": step, "seconds": round(self.seconds, 1), **values})
        with (self.folder / CURVE).open("a", encoding="utf-8") as file:
            file.write("\n" + line)
        print(f"{time.strftime('%H:%M:%S')} {self.folder.name} {line}", file=sys.stderr, flush=True)

    def note(self, line: str) -> None:
        """Print a line to the terminal."""
        print(f"{self.folder.name}: {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Bench:
    """What all phases share; each phase has its own folder in `folder`."""

    size: Size
    folder: Path
    data: str
    images: ImageSet
    test: ImageSet

    def phase(self, name: str, work: Callable[[Curve], LoadedModel]) -> LoadedModel:
        """Carry out a phase and save its model and accuracy as a bundle; load the bundle if it exists."""
        bundle = self.folder / name / "model"
        if not is_bundle(bundle):
            curve = Curve(self.folder / name)
            done = work(curve)
            spent = curve.seconds
            on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            read = batches(self.test, done.preprocess, 250)
            got = evaluate(done.model.to(on), ((x.to(on), y.to(on)) for x, y in read))
            figures = {key: value for key, value in asdict(got).items() if isinstance(value, float)}
            figures |= {"seconds": spent, "images": got.images}
            write_bundle(bundle, done.model.cpu(), done.preprocess, name=f"cifar10 {name}", report=figures)
        return load(str(bundle))

    def figures(self, name: str) -> dict[str, float]:
        """The figures measured at the end of a phase."""
        report = find_report(self.folder / name / "model")
        return report.figures() if report else {}

    def recipe(self, epochs: float) -> Recovery:
        """The recipe for this many passes over the images, split into parts; top-1 is measured after each."""
        wanted = epochs * len(self.images)
        parts = -(-int(wanted) // min(self.size.point, len(self.images)))
        parts = max(parts, -(-int(wanted) // len(self.images)))
        return replace(self.size.recipe, epochs=max(parts, 1), images=int(wanted / max(parts, 1)))

    def seen(self, recipe: Recovery) -> int:
        """Number of images a training run reads: whole batches only."""
        return recipe.epochs * (recipe.images // recipe.batch) * recipe.batch

    def dense(self, curve: Curve, recipe: Recovery, seed: int) -> LoadedModel:
        """Train the dense model from scratch."""
        torch.manual_seed(seed)
        model = ViT(self.size.arch)
        model.init_weights()
        preprocess = Preprocess(
            (32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), labels=self.images.classes
        )
        few = self.test.sample(CURVE_IMAGES)
        model = train(model, self.images, preprocess, Objective(), recipe, seed=seed, test=few, monitor=curve)
        return LoadedModel(model, preprocess, "dense", "trained here")

    def recovered(
        self, curve: Curve, student: LoadedModel, teacher: LoadedModel, recipe: Recovery, seed: int
    ) -> LoadedModel:
        """Train a model further; the dense model is trained further in the same way."""
        few = self.test.sample(CURVE_IMAGES)
        return recover(student, teacher, self.images, few, recipe, seed, curve)

    def gohsp(self, curve: Curve, start: LoadedModel, recipe: Recovery, seed: int) -> LoadedModel:
        """Train towards the smaller structure by GOHSP, then cut."""
        few = self.test.sample(CURVE_IMAGES)
        lesson = TrainingData(self.images, start.preprocess, seed + 1, few, recipe)
        options = GohspOptions(sparsity=REMOVED, epochs=recipe.epochs, distill=recipe.soft > 0)
        some = batches(self.images.sample(options.images, seed), start.preprocess, 32)
        model, _ = gohsp(start.model, list(some), HEADS, 1, options, lesson, curve)
        return replace(start, model=model)

    def spectral(self, curve: Curve, start: LoadedModel, seed: int) -> LoadedModel:
        """Find widths for a parameter budget, then project onto them."""
        budget = Budget(params=(1 - REMOVED) * cost(start.model.arch).params)
        job = Job(start.name, self.data, method="spectral", budget=budget, align=8, seed=seed)
        images = self.images.sample(1000, seed)
        return replace(start, model=make_smaller(Prepared(job, start, images, self.test)).model)


def run(bench: Bench, epochs: float, more: float, seeds: list[int]) -> tuple[list[list[str]], str]:
    """Carry out all phases; return the rows of the table, and the table of curves."""
    first, rest = bench.recipe(epochs), bench.recipe(more)
    before, after = bench.recipe(more * BEFORE_CUT), bench.recipe(more * (1 - BEFORE_CUT))
    start = bench.phase("start", lambda curve: bench.dense(curve, first, 0))
    begun = bench.seen(first)
    rows = [row(bench, "Dense, the common start", start, ["start"], f"{begun:,}")]
    curves: list[tuple[str, list[tuple[int, str]]]] = [("Start", [(0, "start")])]
    for seed in seeds:
        names = {way: f"{way}-{seed}" for way in TITLES}
        cut, small = f"{names['gohsp']}-cut", f"{names['spectral']}-cut"
        recovered = partial(bench.recovered, teacher=start, seed=seed)
        whole = bench.phase(names["dense"], partial(recovered, student=start, recipe=rest))
        narrow = bench.phase(cut, partial(bench.gohsp, start=start, recipe=before, seed=seed))
        ours = bench.phase(names["gohsp"], partial(recovered, student=narrow, recipe=after))
        projected = bench.phase(small, partial(bench.spectral, start=start, seed=seed))
        spectral = bench.phase(names["spectral"], partial(recovered, student=projected, recipe=rest))
        named = f", seed {seed}" if len(seeds) > 1 else ""
        parts = f"{begun:,} + {bench.seen(before):,} + {bench.seen(after):,}"
        both = f"{begun:,} + {bench.seen(rest):,}"
        rows += [
            row(bench, f"Dense{named}", whole, [names["dense"]], both),
            row(bench, f"GOHSP{named}", ours, [cut, names["gohsp"]], parts),
            row(bench, f"Spectral before recovery{named}", projected, [small], f"{begun:,}"),
            row(bench, f"Spectral + recovery{named}", spectral, [small, names["spectral"]], both),
        ]
        at_cut = begun + bench.seen(before)
        curves += [
            (f"Dense{named}", [(begun, names["dense"])]),
            (f"GOHSP{named}", [(begun, cut), (at_cut, names["gohsp"])]),
            (f"Spectral{named}", [(begun, names["spectral"])]),
        ]
    return rows, curve_table(bench, curves)


def row(bench: Bench, title: str, model: LoadedModel, phases: list[str], seen: str) -> list[str]:
    """A row of the table: a model's size and accuracy, and the seconds spent after the common start."""
    costs, figures = cost(model.model.arch), bench.figures(phases[-1])
    top1 = percent(figures["top1"], figures["top1_low"], figures["top1_high"])
    spent = sum(bench.figures(phase)["seconds"] for phase in phases)
    return [title, f"{costs.params:,}", f"{costs.gmacs:.3f}", top1, seen, f"{spent:,.0f}"]


def curve_table(bench: Bench, curves: list[tuple[str, list[tuple[int, str]]]]) -> str:
    """Top-1 by images seen: a row for each number of images, a column for each model."""
    cells: dict[int, dict[str, str]] = {}
    batch = bench.size.recipe.batch
    for title, phases in curves:
        for offset, phase in phases:
            for point in Curve(bench.folder / phase).rows():
                if "top1" in point:
                    seen = offset + int(point["step"]) * batch
                    cells.setdefault(seen, {})[title] = f"{point['top1']:.1%}".replace("%", " %")
    titles = [title for title, _ in curves]
    rows = [[f"{seen:,}", *(cells[seen].get(title, "") for title in titles)] for seen in sorted(cells)]
    return table(["Images seen", *titles], rows)


def body(bench: Bench, rows: list[list[str]], curves: str, seeds: str) -> str:
    """The text of the section."""
    recipe = bench.size.recipe
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    seconds = "Seconds" if torch.cuda.is_available() else "Processor seconds"
    teacher = (
        f"with the common start as teacher (share {recipe.soft:g})"
        if recipe.soft
        else "from labels alone, because a start with so little training has little to teach"
    )
    head = ["", "Parameters", "GMACs", "Top-1 (95 % interval)", "Training images seen", seconds]
    words = (
        f"CIFAR-10 (JPEG, quality 75, for training and testing), {bench.size.words}, on {device}, tested "
        f"on all {len(bench.test):,} test images. From the common start all three models are trained on the "
        f"same number of further images with the same recipe (AdamW, peak learning rate {recipe.lr:g}, "
        f"warm-up and cosine decay in each part, batch {recipe.batch}, augmentation {recipe.augment}, mixup "
        f"{recipe.mixup:g}, cutmix {recipe.cutmix:g}, smoothing {recipe.smoothing:g}), {teacher}. GOHSP "
        f"removes one of six heads, a quarter of the query-key pairs, and as many value channels and neurons "
        f"as needed; {100 * BEFORE_CUT:.0f} % of its further images are used by ADMM before the cut. "
        f"Spectral: widths found for a parameter budget. {seconds} are counted from the common start and "
        f"include pruning. Seeds: {seeds}.\n\n"
    )
    curve = f"\n\nTop-1 on {CURVE_IMAGES:,} test images during training:\n\n{curves}"
    return words + table(head, rows) + curve


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=tuple(SIZES), default="full")
    arguments.add_argument("--epochs", type=float, help="epochs of the dense model, the common start")
    arguments.add_argument("--more", type=float, help="further epochs of each of the three models")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the further training")
    arguments.add_argument("--limit", type=int, help="use at most N training and test images, for a trial")
    arguments.add_argument(
        "--keep", type=Path, default=ROOT / "build" / "cifar10", help="folder for checkpoints and models"
    )
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    size = SIZES[args.size]
    epochs, more = args.epochs or size.epochs, args.more or size.more
    data = f"cifar10:{data_folder()}"
    images, test = open_training(data, Preprocess((32, 32)), 10)
    if args.limit:
        images, test = images.sample(args.limit), test.sample(args.limit)
    name = fingerprint(size, epochs, more, args.limit)
    bench = Bench(size, args.keep / f"{args.size}-{name}", data, images, test)
    rows, curves = run(bench, epochs, more, args.seeds)
    title = "CIFAR-10 (JPEG), 40 % fewer parameters" + ("" if args.size == "full" else f", size {args.size}")
    report(title, body(bench, rows, curves, ", ".join(map(str, args.seeds))), args.write)


if __name__ == "__main__":
    main()
