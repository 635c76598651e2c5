"""CIFAR-10 (JPEG): a dense ViT, and the smaller ones by GOHSP, spectral and SNP, trained equally long.

    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size transfer --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size full --write    # on a GPU, in bfloat16

The common start is a dense model: DeiT-Tiny fine-tuned at 96 x 96 pixels (`transfer`), or a ViT-Small/4
from scratch (`full`), in rounds of --epochs. Every other model is then trained from it for --more epochs, so
that all have seen the same number of images: the dense model itself, GOHSP and spectral with 40 % fewer
parameters (of GOHSP's epochs some come before the cut, the rest after), and on DeiT-Tiny SNP at its
published preset. All use the same data and recipe, with the common start as teacher.
If the script is killed, the same command continues from the last checkpoint in --keep; finished phases are
not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import ROOT, data_folder, deit_tiny, parser, percent, report, table

from analysis.data import ImageSet, batches, open_training
from analysis.measure import Evaluation, cost, evaluate, paired_change
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
from pruning.wording import paired_points

REMOVED = 0.4  # of the parameters
CURVE_IMAGES = 1000  # test images for the curve; the table uses all of them
CURVE = "curve.jsonl"
TESTED = "tested.json"


@dataclass(frozen=True)
class Size:
    """A start, the recipes of its training and of the further training, and their lengths in epochs.

    The start may be trained in several rounds, each with a schedule of its own.
    """

    words: str
    side: int  # pixels
    rounds: tuple[Recovery, ...]
    further: Recovery
    epochs: tuple[float, ...]
    more: float
    point: int  # at most so many images between two points of the curve
    gohsp: GohspOptions
    removed: Ratios  # by GOHSP, besides value channels and neurons
    gohsp_words: str
    preset: str | None = None  # SNP's, if there is one for this model

    def build(self, labels: tuple[str, ...]) -> LoadedModel:
        """The model that the common start is trained from."""
        raise NotImplementedError


class FromScratch(Size):
    """A ViT-Small with six heads, patches of 4 x 4 pixels and average pooling over the tokens."""

    def build(self, labels: tuple[str, ...]) -> LoadedModel:
        """Random weights."""
        arch = Architecture(
            image_size=(32, 32),
            patch_size=(4, 4),
            embed_dim=384,
            blocks=(BlockWidths(6, 64, 64, 4 * 384),) * 12,
            num_classes=10,
            scale=64**-0.5,
            class_token=False,
            pool="avg",
            norm_before_pool=False,
        )
        model = ViT(arch)
        model.init_weights()
        preprocess = Preprocess((32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), labels=labels)
        return LoadedModel(model, preprocess, "dense", "trained here")


class Transfer(Size):
    """DeiT-Tiny at another image size, with a new classifier."""

    def build(self, labels: tuple[str, ...]) -> LoadedModel:
        """ImageNet weights, position embeddings resampled by timm, and a classifier of random weights."""
        job = deit_tiny()
        loaded = load(job.model, Path(job.weights or ""), image_size=(self.side, self.side))
        model = ViT(replace(loaded.model.arch, num_classes=len(labels)))
        model.init_weights()
        kept = {k: v for k, v in loaded.model.state_dict().items() if not k.startswith("head.")}
        model.load_state_dict(kept, strict=False)
        whole = replace(loaded.preprocess, labels=labels, crop_pct=1.0)
        return LoadedModel(model, whole, "dense", "trained here")


# on a CPU, bfloat16 is used where it is fast
PRECISION = "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "auto"
FROM_SCRATCH = Recovery(
    batch=512, lr=1e-3, mixup=0.8, cutmix=1.0, smoothing=0.1, augment="strong", soft=0.5, features=0.0
)
SIZES: dict[str, Size] = {
    "full": FromScratch(
        "ViT-Small/4 (12 blocks, 6 heads, E 384) from scratch",
        side=32,
        rounds=(FROM_SCRATCH,),
        further=FROM_SCRATCH,
        epochs=(100.0,),
        more=50,
        point=250_000,
        gohsp=GohspOptions(),
        removed=Ratios(heads=1 / 6, qk=0.25),
        gohsp_words="one of six heads in every block",
    ),
    "transfer": Transfer(
        "DeiT-Tiny (LayerNorms rounded), pre-trained on ImageNet-1k, at 96 x 96 pixels (37 tokens)",
        side=96,
        rounds=(
            Recovery(batch=128, lr=2e-4, min_lr=0.0, smoothing=0.0, soft=0.0, features=0.0),
            Recovery(batch=128, lr=3e-4, soft=0.0, features=0.0, precision=PRECISION),
            # by then nearly all training images are learned by heart, so they are blended
            Recovery(batch=128, lr=3e-4, mixup=0.1, cutmix=1.0, soft=0.0, features=0.0, precision=PRECISION),
        ),
        further=Recovery(batch=128, precision=PRECISION),
        epochs=(3.0, 5.0, 6.0),
        more=1.5,
        point=25_000,
        gohsp=GohspOptions(scope="global"),
        removed=Ratios(heads=(1 / 3, 0.0) * 6, qk=0.25),
        gohsp_words="6 of 36 heads, ranked over all blocks",
        preset="snp-deit-tiny",
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


Work = Callable[[Curve], LoadedModel]


@dataclass(frozen=True)
class Phase:
    """A finished phase: its folder, its model, how that did on all test images, and the seconds it took."""

    folder: Path
    loaded: LoadedModel
    tested: Evaluation
    seconds: float


@dataclass(frozen=True)
class Bench:
    """What all phases share; each phase has its own folder in `folder`."""

    size: Size
    folder: Path
    data: str
    images: ImageSet
    test: ImageSet

    def phase(self, name: str, settings: object, work: Work) -> Phase:
        """Carry out a phase and save its model and predictions; load them if they are there already."""
        folder = self.folder / f"{name}-{fingerprint(settings)}"
        bundle = folder / "model"
        if not is_bundle(bundle):
            curve = Curve(folder)
            done = work(curve)
            spent = curve.seconds
            on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            read = batches(self.test, done.preprocess, 250)
            got = evaluate(done.model.to(on), ((x.to(on), y.to(on)) for x, y in read))
            (folder / TESTED).write_text(json.dumps(asdict(got)), encoding="utf-8")
            figures = {key: value for key, value in asdict(got).items() if isinstance(value, float)}
            figures |= {"seconds": spent, "images": got.images}
            write_bundle(bundle, done.model.cpu(), done.preprocess, name=f"cifar10 {name}", report=figures)
        tested: dict[str, Any] = json.loads((folder / TESTED).read_text(encoding="utf-8"))
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in tested.items()}
        known = find_report(bundle)
        return Phase(
            folder, load(str(bundle)), Evaluation(**fields), known.figures()["seconds"] if known else 0.0
        )

    def recipe(self, recipe: Recovery, epochs: float) -> Recovery:
        """The recipe for this many passes over the images, split into parts; top-1 is measured after each."""
        wanted = epochs * len(self.images)
        parts = -(-int(wanted) // min(self.size.point, len(self.images)))
        parts = max(parts, -(-int(wanted) // len(self.images)))
        return replace(recipe, epochs=max(parts, 1), images=int(wanted / max(parts, 1)))

    def seen(self, recipe: Recovery) -> int:
        """Number of images a training run reads: whole batches only."""
        return recipe.epochs * (recipe.images // recipe.batch) * recipe.batch

    def dense(self, curve: Curve, recipe: Recovery, seed: int, start: LoadedModel | None) -> LoadedModel:
        """A round of training the common start: from its beginning, or from where the last one ended."""
        torch.manual_seed(seed)
        start = start or self.size.build(self.images.classes)
        few = self.test.sample(CURVE_IMAGES)
        model = train(
            start.model,
            self.images,
            start.preprocess,
            Objective(),
            recipe,
            seed=seed,
            test=few,
            monitor=curve,
        )
        return replace(start, model=model)

    def recovered(self, student: LoadedModel, teacher: LoadedModel, recipe: Recovery, seed: int) -> Work:
        """Train a model further; the dense model is trained further in the same way."""
        few = self.test.sample(CURVE_IMAGES)
        return lambda curve: recover(student, teacher, self.images, few, recipe, seed, curve)

    def gohsp(self, start: LoadedModel, recipe: Recovery, seed: int) -> Work:
        """Train towards the smaller structure by GOHSP, then cut."""

        def work(curve: Curve) -> LoadedModel:
            few = self.test.sample(CURVE_IMAGES)
            data = TrainingData(self.images, start.preprocess, seed + 1, few, recipe)
            options = replace(self.size.gohsp, sparsity=REMOVED, epochs=recipe.epochs)
            some = list(batches(self.images.sample(options.images, seed), start.preprocess, 32))
            model, _ = gohsp(start.model, some, self.size.removed, 1, options, data, curve)
            return replace(start, model=model)

        return work

    def made(self, start: LoadedModel, job: Job) -> Work:
        """Prune without training; importance is measured on training images."""
        images = self.images.sample(1000, job.seed)
        return lambda curve: replace(start, model=make_smaller(Prepared(job, start, images, self.test)).model)


@dataclass(frozen=True)
class Row:
    """A row of the table: phases, number of images seen, and the dense model to compare with."""

    title: str
    phases: tuple[Phase, ...]
    seen: str
    dense: Phase | None = None

    def cells(self) -> list[str]:
        """Size, accuracy, paired change against the dense model, and the seconds after the common start."""
        last = self.phases[-1]
        costs, got = cost(last.loaded.model.arch), last.tested
        change = "" if self.dense is None else paired_points(paired_change(self.dense.tested, got))
        spent = sum(phase.seconds for phase in self.phases)
        top1 = percent(got.top1, got.top1_low, got.top1_high)
        return [
            self.title,
            f"{costs.params:,}",
            f"{costs.gmacs:.4f}",
            top1,
            change,
            self.seen,
            f"{spent:,.0f}",
        ]


Column = tuple[str, list[tuple[int, Phase]]]  # title of a curve, and its phases by images seen before


def run(bench: Bench, epochs: Sequence[float], more: float, seeds: list[int]) -> tuple[list[list[str]], str]:
    """Carry out all phases; return the rows of the table, and the table of curves."""
    begun, phases = 0, list[tuple[int, Phase]]()
    recipes: tuple[Recovery, ...] = ()
    for recipe, length in zip(bench.size.rounds, epochs, strict=True):
        recipes = (*recipes, bench.recipe(recipe, length))
        start = _round(bench, recipes, phases[-1][1].loaded if phases else None)
        phases.append((begun, start))
        begun += bench.seen(recipes[-1])
    rows = [Row("Dense, the common start", tuple(phase for _, phase in phases), f"{begun:,}")]
    columns: list[Column] = [("Start", phases)]
    for seed in seeds:
        added, drawn = further(bench, start, recipes, begun, more, seed)
        named = f", seed {seed}" if len(seeds) > 1 else ""
        rows += [replace(row, title=f"{row.title}{named}") for row in added]
        columns += [(f"{title}{named}", phases) for title, phases in drawn]
    return [row.cells() for row in rows], curve_table(bench, columns)


def _round(bench: Bench, recipes: tuple[Recovery, ...], start: LoadedModel | None) -> Phase:
    """The last of these rounds of training the common start."""
    number = len(recipes)
    name = "start" if number == 1 else f"start-{number}"
    return bench.phase(name, recipes, lambda curve: bench.dense(curve, recipes[-1], number - 1, start))


def further(
    bench: Bench, start: Phase, first: tuple[Recovery, ...], begun: int, more: float, seed: int
) -> tuple[list[Row], list[Column]]:
    """All models that are trained from the common start, of `begun` images, with one seed."""
    size, base = bench.size, start.loaded
    rest, half = bench.recipe(size.further, more), bench.recipe(size.further, more / 2)

    def trained(name: str, from_: Phase, recipe: Recovery) -> Phase:
        settings = (first, recipe, seed, from_.folder.name)
        return bench.phase(name, settings, bench.recovered(from_.loaded, base, recipe, seed))

    dense = trained("dense", start, rest)
    both = f"{begun:,} + {bench.seen(rest):,}"
    rows, columns = [Row("Dense", (dense,), both)], [("Dense", [(begun, dense)])]
    budget = Budget(params=(1 - REMOVED) * cost(base.model.arch).params)

    def pruned(title: str, job: Job) -> None:
        cut = bench.phase(f"{job.method}-cut", (first, job), bench.made(base, job))
        after = trained(job.method, cut, rest)
        rows.append(Row(f"{title}, before recovery", (cut,), f"{begun:,}", dense))
        rows.append(Row(f"{title}, recovered", (cut, after), both, dense))
        columns.append((title, [(begun, after)]))

    pruned("Spectral", Job(base.name, bench.data, method="spectral", budget=budget, align=8, seed=seed))
    settings = (first, half, seed, size.gohsp, size.removed)
    narrow = bench.phase("gohsp-cut", settings, bench.gohsp(base, half, seed))
    ours = trained("gohsp", narrow, half)
    at_cut = f"{begun:,} + {bench.seen(half):,}"
    rows.append(Row("GOHSP, after the cut", (narrow,), at_cut, dense))
    rows.append(Row("GOHSP, recovered", (narrow, ours), f"{at_cut} + {bench.seen(half):,}", dense))
    columns.append(("GOHSP", [(begun, narrow), (begun + bench.seen(half), ours)]))
    if size.preset:
        pruned("SNP, preset", Job(base.name, bench.data, method="snp", preset=size.preset, seed=seed))
    return rows, columns


def curve_table(bench: Bench, columns: list[Column]) -> str:
    """Top-1 by images seen: a row for each number of images, a column for each model."""
    cells: dict[int, dict[str, str]] = {}
    batch = bench.size.further.batch
    for title, phases in columns:
        for offset, phase in phases:
            for point in Curve(phase.folder).rows():
                if "top1" in point:
                    seen = offset + int(point["step"]) * batch
                    cells.setdefault(seen, {})[title] = f"{point['top1']:.1%}".replace("%", " %")
    titles = [title for title, _ in columns]
    rows = [[f"{seen:,}", *(cells[seen].get(title, "") for title in titles)] for seen in sorted(cells)]
    return table(["Images seen", *titles], rows)


def body(bench: Bench, rows: list[list[str]], curves: str, seeds: str) -> str:
    """The text of the section."""
    recipe = bench.size.further
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    seconds = "Seconds" if torch.cuda.is_available() else "Processor seconds"
    head = [
        "",
        "Parameters",
        "GMACs",
        "Top-1 (95 % interval)",
        "Change against dense",
        "Training images",
    ]
    words = (
        f"CIFAR-10 (JPEG, quality 75, for training and testing), {bench.size.words}, on {device}, tested "
        f"on all {len(bench.test):,} test images. From the common start all models are trained on the "
        f"same number of further images with the same recipe (AdamW, peak learning rate "
        f"{recipe.highest_lr:g}, warm-up and cosine decay in each part, batch {recipe.batch}, augmentation "
        f"{recipe.augment}, mixup {recipe.mixup:g}, cutmix {recipe.cutmix:g}, smoothing "
        f"{recipe.smoothing:g}, precision {recipe.precision}), with the common start as "
        f"teacher (share {recipe.soft:g}, features {recipe.features:g}). GOHSP removes "
        f"{bench.size.gohsp_words}, a quarter of the query-key pairs, "
        f"and as many value channels and neurons as needed for {100 * REMOVED:.0f} % fewer parameters; half "
        f"of its further images are used by ADMM before the cut. Spectral: widths found for a budget of as "
        f"many parameters. Changes are against the dense model trained on as many images with the same seed: "
        f"paired, with their 95 % interval and the exact McNemar test. {seconds} of "
        f"the further models are counted from the common start and include pruning. Seeds: {seeds}.\n\n"
    )
    curve = f"\n\nTop-1 on {CURVE_IMAGES:,} test images during training:\n\n{curves}"
    return words + table([*head, seconds], rows) + curve


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=tuple(SIZES), default="full")
    arguments.add_argument("--epochs", type=float, nargs="+", help="epochs of each round of the common start")
    arguments.add_argument("--more", type=float, help="further epochs of each of the models")
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
    images, test = open_training(data, Preprocess((size.side, size.side)), 10)
    if args.limit:
        images, test = images.sample(args.limit), test.sample(args.limit)
    bench = Bench(
        size, args.keep / (args.size + (f"-{args.limit}" if args.limit else "")), data, images, test
    )
    rows, curves = run(bench, epochs, more, args.seeds)
    title = "CIFAR-10 (JPEG), 40 % fewer parameters" + ("" if args.size == "full" else f", {args.size}")
    report(title, body(bench, rows, curves, ", ".join(map(str, args.seeds))), args.write)


if __name__ == "__main__":
    main()
