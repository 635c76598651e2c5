"""CIFAR-10 (JPEG): a dense ViT, and the smaller ones by GOHSP, spectral and SNP, trained equally long.

    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size transfer --at-once 4 --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size full --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size tokens --at-once 3 --write

All are for a GPU. The common start is a dense model: DeiT-Tiny fine-tuned at 96 x 96 pixels (`transfer`) or
at 224 x 224 (`tokens`), or a ViT-Small/4 from scratch (`full`), for --epochs. Every other model is then
trained from it for --more epochs, so that all have seen the same number of images: the dense model itself,
GOHSP and spectral with 40 % fewer parameters (of GOHSP's epochs some come before the cut, the rest after),
and on DeiT-Tiny SNP at its published preset; or, for `tokens`, spectral at a share of the dense GMACs by the
default budget, which merges tokens, and by widths alone. All use the same data and recipe, with the common
start as teacher; --at-once says how many of them are trained at the same time, each by a process of its own.
If the script is killed, the same command continues from the last checkpoint in --keep; finished phases are
not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from results import ROOT, data_folder, deit_tiny, parser, percent, report, table

from analysis.data import ImageSet, batches, open_training
from analysis.measure import Evaluation, cost, evaluate, paired_change
from analysis.models import LoadedModel, Preprocess, Reading, load
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
ADMM = 0.25  # of GOHSP's further images
CURVE_IMAGES = 1000  # test images for the curve; the table uses all of them
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CURVE = "curve.jsonl"
TESTED = "tested.json"


@dataclass(frozen=True)
class Size:
    """A start, the recipes of its training and of the further training, and their lengths in epochs."""

    words: str
    side: int  # pixels
    first: Recovery
    further: Recovery
    epochs: float
    more: float
    point: int  # at most so many images between two points of the curve
    gohsp: GohspOptions = field(default_factory=GohspOptions)
    removed: Ratios = field(default_factory=Ratios)  # by GOHSP, besides value channels and neurons
    gohsp_words: str = ""
    preset: str | None = None  # SNP's, if there is one for this model
    gmacs: float | None = None  # share of the dense model's, for budgets with and without tokens

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
        loaded = load(job.model, Path(job.weights or ""), Reading(image_size=(self.side, self.side)))
        model = ViT(replace(loaded.model.arch, num_classes=len(labels)))
        model.init_weights()
        kept = {k: v for k, v in loaded.model.state_dict().items() if not k.startswith("head.")}
        model.load_state_dict(kept, strict=False)
        whole = replace(loaded.preprocess, labels=labels, crop_pct=1.0)
        return LoadedModel(model, whole, "dense", "trained here")


FROM_SCRATCH = Recovery(
    batch=512, lr=1e-3, mixup=0.8, cutmix=1.0, smoothing=0.1, augment="strong", soft=0.5, features=0.0
)
# after a few epochs the training images are learned by heart, so they are blended
FINE_TUNING = Recovery(batch=512, lr=5e-4, mixup=0.2, cutmix=1.0, test_every=5)
SIZES: dict[str, Size] = {
    "full": FromScratch(
        "ViT-Small/4 (12 blocks, 6 heads, E 384) from scratch",
        side=32,
        first=FROM_SCRATCH,
        further=FROM_SCRATCH,
        epochs=100,
        more=50,
        point=250_000,
        removed=Ratios(heads=1 / 6, qk=0.25),
        gohsp_words="one of six heads in every block",
    ),
    "transfer": Transfer(
        "DeiT-Tiny (LayerNorms rounded), pre-trained on ImageNet-1k, at 96 x 96 pixels (37 tokens)",
        side=96,
        first=replace(FINE_TUNING, soft=0.0, features=0.0),
        further=FINE_TUNING,
        epochs=25,
        more=20,
        point=250_000,
        gohsp=GohspOptions(scope="global"),
        removed=Ratios(heads=(1 / 3, 0.0) * 6, qk=0.25),
        gohsp_words="6 of 36 heads, ranked over all blocks",
        preset="snp-deit-tiny",
    ),
    "tokens": Transfer(
        "DeiT-Tiny (LayerNorms rounded), pre-trained on ImageNet-1k, at 224 x 224 pixels (197 tokens)",
        side=224,
        first=replace(FINE_TUNING, soft=0.0, features=0.0, test_every=1),
        further=replace(FINE_TUNING, test_every=1),
        epochs=5,
        more=5,
        point=250_000,
        gmacs=0.46,
    ),
}


@dataclass(frozen=True)
class Decoded:
    """Images of one size, decoded once: decoding each again for every epoch would keep a GPU waiting."""

    source: Any
    pixels: NDArray[np.uint8]  # images Y X C

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images, `class/name`."""
        names: tuple[str, ...] = self.source.names
        return names

    def image(self, item: int) -> Image.Image:
        """Image `item` as RGB."""
        return Image.fromarray(self.pixels[item])

    def content(self, item: int) -> bytes:
        """The bytes of its file."""
        content: bytes = self.source.content(item)
        return content


def decoded(images: ImageSet, file: Path) -> ImageSet:
    """The same set with its images decoded, in a file that all processes share."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            items = range(len(images.source.names))
            every = list(pool.map(partial(_pixels, images.source), items, chunksize=1000))
        np.save(file, np.stack(every))
    return replace(images, source=Decoded(images.source, np.load(file, mmap_mode="r")))


def _pixels(source: Any, item: int) -> NDArray[np.uint8]:
    return np.asarray(source.image(item))


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
    workers: int  # processes that read images, for each training

    def phase(self, name: str, settings: object, work: Work) -> Phase:
        """Carry out a phase and save its model and predictions; load them if they are there already."""
        folder = self.folder / f"{name}-{fingerprint(settings)}"
        bundle = folder / "model"
        if not is_bundle(bundle):
            curve = Curve(folder)
            done = work(curve)
            spent = curve.seconds
            on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
            read = batches(self.test, done.preprocess, 250, workers=self.workers)
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

    def started(self, recipe: Recovery) -> Work:
        """Train the common start."""

        def work(curve: Curve) -> LoadedModel:
            torch.manual_seed(0)
            start, few = self.size.build(self.images.classes), self.test.sample(CURVE_IMAGES)
            model = train(
                start.model,
                self.images,
                start.preprocess,
                Objective(),
                replace(recipe, workers=self.workers),
                test=few,
                monitor=curve,
            )
            return replace(start, model=model)

        return work

    def recovered(self, student: LoadedModel, teacher: LoadedModel, recipe: Recovery, seed: int) -> Work:
        """Train a model further; the dense model is trained further in the same way."""
        few, recipe = self.test.sample(CURVE_IMAGES), replace(recipe, workers=self.workers)
        return lambda curve: recover(student, teacher, self.images, few, recipe, seed, curve)

    def gohsp(self, start: LoadedModel, recipe: Recovery, seed: int) -> Work:
        """Train towards the smaller structure by GOHSP, then cut."""

        def work(curve: Curve) -> LoadedModel:
            few = self.test.sample(CURVE_IMAGES)
            own = replace(recipe, workers=self.workers)
            data = TrainingData(self.images, start.preprocess, seed + 1, few, own)
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
Drawn = tuple[list[Row], Column]


@dataclass(frozen=True)
class Further:
    """The models that are trained from the common start, of `begun` images, with one seed."""

    bench: Bench
    start: Phase
    first: Recovery
    more: float
    seed: int

    @property
    def begun(self) -> int:
        """Images that the common start has seen."""
        return self.bench.seen(self.first)

    def chains(self) -> dict[str, Callable[[], Drawn]]:
        """What may be trained at the same time, by name; the dense model first."""
        if self.bench.size.gmacs is not None:
            return {"dense": self.dense, "everything": self.everything, "widths": self.widths}
        chains = {"dense": self.dense, "spectral": self.spectral, "gohsp": self.gohsp}
        return chains | ({"snp": self.snp} if self.bench.size.preset else {})

    def dense(self) -> Drawn:
        """The dense model."""
        phase = self._trained("dense", self.start, self._recipe())
        row = Row("Dense", (phase,), f"{self.begun:,} + {self.bench.seen(self._recipe()):,}")
        return [row], ("Dense", [(self.begun, phase)])

    def spectral(self) -> Drawn:
        """Widths found for the budget."""
        params = (1 - REMOVED) * cost(self.start.loaded.model.arch).params
        return self._pruned("Spectral", "spectral", "spectral", budget=Budget(params=params), align=8)

    def everything(self) -> Drawn:
        """Widths, tokens and depth found for the budget."""
        return self._budget("Spectral, the default budget", "everything")

    def widths(self) -> Drawn:
        """Widths alone found for the same budget."""
        return self._budget("Spectral, widths alone", "widths", tokens=False, depth=False)

    def _budget(self, title: str, name: str, **switches: bool) -> Drawn:
        gmacs = (self.bench.size.gmacs or 1.0) * cost(self.start.loaded.model.arch).gmacs
        budget = Budget(gmacs=gmacs, **switches)
        return self._pruned(title, name, "spectral", budget=budget, align=8, skip_unread=True)

    def snp(self) -> Drawn:
        """SNP at its published preset."""
        return self._pruned("SNP, preset", "snp", "snp", preset=self.bench.size.preset)

    def gohsp(self) -> Drawn:
        """ADMM for a part of the images, the cut, and recovery for the rest."""
        bench, size = self.bench, self.bench.size
        before, after = self._recipe(ADMM), self._recipe(1 - ADMM)
        settings = (self.first, before, self.seed, size.gohsp, size.removed)
        narrow = bench.phase("gohsp-cut", settings, bench.gohsp(self.start.loaded, before, self.seed))
        ours = self._trained("gohsp", narrow, after)
        at_cut = f"{self.begun:,} + {bench.seen(before):,}"
        rows = [
            Row("GOHSP, after the cut", (narrow,), at_cut),
            Row("GOHSP, recovered", (narrow, ours), f"{at_cut} + {bench.seen(after):,}"),
        ]
        return rows, ("GOHSP", [(self.begun, narrow), (self.begun + bench.seen(before), ours)])

    def _recipe(self, share: float = 1.0) -> Recovery:
        return self.bench.recipe(self.bench.size.further, self.more * share)

    def _trained(self, name: str, from_: Phase, recipe: Recovery) -> Phase:
        settings = (self.first, recipe, self.seed, from_.folder.name)
        work = self.bench.recovered(from_.loaded, self.start.loaded, recipe, self.seed)
        return self.bench.phase(name, settings, work)

    def _pruned(self, title: str, name: str, method: str, **settings: Any) -> Drawn:
        base, bench = self.start.loaded, self.bench
        job = Job(base.name, bench.data, method=method, seed=self.seed, **settings)
        cut = bench.phase(f"{name}-cut", (self.first, replace(job, data="")), bench.made(base, job))
        after = self._trained(name, cut, self._recipe())
        both = f"{self.begun:,} + {bench.seen(self._recipe()):,}"
        rows = [
            Row(f"{title}, before recovery", (cut,), f"{self.begun:,}"),
            Row(f"{title}, recovered", (cut, after), both),
        ]
        return rows, (title, [(self.begun, after)])


def train_at_once(chains: list[tuple[str, int]], number: int) -> None:
    """Train these chains, each with its seed, `number` at a time, in processes that run this script.

    Raises:
        CalledProcessError: one of them failed; the others have come to their end.
    """

    def one(name: str, seed: int) -> None:
        command = [sys.executable, *sys.argv, "--chain", name, "--seeds", str(seed)]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(one, *zip(*chains, strict=True)))


def tables(bench: Bench, start: Phase, furthers: list[Further]) -> tuple[list[list[str]], str]:
    """The rows of the table, and the table of curves."""
    begun = furthers[0].begun
    rows, columns = [Row("Dense, the common start", (start,), f"{begun:,}")], [("Start", [(0, start)])]
    for further in furthers:
        named = f", seed {further.seed}" if len(furthers) > 1 else ""
        dense = None
        for chain in further.chains().values():
            added, (title, phases) = chain()
            rows += [replace(row, title=f"{row.title}{named}", dense=dense) for row in added]
            dense = dense or added[0].phases[0]
            columns.append((f"{title}{named}", phases))
    return [row.cells() for row in rows], curve_table(bench, columns)


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


def body(bench: Bench, rows: list[list[str]], curves: str, seeds: str, at_once: int) -> str:
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
        f"teacher (share {recipe.soft:g}, features {recipe.features:g}). {smaller(bench.size)} Changes are "
        f"against the dense model trained on as many images with the same seed: paired, with their 95 % "
        f"interval and p-value (McNemar). {seconds} of the further models are counted from "
        f"the common start and include pruning; {at_once} of them are trained at the same time. "
        f"Seeds: {seeds}.\n\n"
    )
    curve = f"\n\nTop-1 on {CURVE_IMAGES:,} test images during training:\n\n{curves}"
    return words + table([*head, seconds], rows) + curve


def smaller(size: Size) -> str:
    """How the models were made smaller."""
    if size.gmacs is not None:
        return (
            f"Spectral: a budget of {100 * size.gmacs:.0f} % of the dense GMACs; by default widths, merged "
            "tokens and the depth are found for it."
        )
    return (
        f"GOHSP removes {size.gohsp_words}, a quarter of the query-key pairs, and as many value channels and "
        f"neurons as needed for {100 * REMOVED:.0f} % fewer parameters; ADMM uses {100 * ADMM:.0f} % of its "
        "further images before the cut. Spectral: widths found for a budget of as many parameters."
    )


def readers(args: argparse.Namespace) -> int:
    """Processes that read images: as many as there are cores for one training beside a GPU, or one."""
    cores = (os.cpu_count() or 1) // (args.at_once if args.chain else 1)
    return max(cores, 1) if torch.cuda.is_available() else 1


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=tuple(SIZES), default="full")
    arguments.add_argument("--epochs", type=float, help="epochs of the common start")
    arguments.add_argument("--more", type=float, help="further epochs of each of the models")
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the further training")
    arguments.add_argument("--at-once", type=int, default=1, help="models that are trained at the same time")
    arguments.add_argument("--workers", type=int, default=-1, help="processes that read images, for each")
    arguments.add_argument("--chain", help=argparse.SUPPRESS)  # one of those that are trained at once
    arguments.add_argument("--limit", type=int, help="use at most N training and test images, for a trial")
    arguments.add_argument(
        "--keep", type=Path, default=ROOT / "build" / "cifar10", help="folder for checkpoints and models"
    )
    args = arguments.parse_args()
    torch.set_num_threads(args.threads)
    size = SIZES[args.size]
    data = f"cifar10:{data_folder()}"
    named = Preprocess((size.side, size.side), labels=CLASSES)
    images, test = (
        decoded(some, args.keep / f"{name}.npy")
        for name, some in zip(("train", "test"), open_training(data, named, len(CLASSES)), strict=True)
    )
    if args.limit:
        images, test = images.sample(args.limit), test.sample(args.limit)
    folder = args.keep / (args.size + (f"-{args.limit}" if args.limit else ""))
    bench = Bench(size, folder, data, images, test, args.workers if args.workers >= 0 else readers(args))
    first = bench.recipe(size.first, args.epochs or size.epochs)
    start = bench.phase("start", first, bench.started(first))
    furthers = [Further(bench, start, first, args.more or size.more, seed) for seed in args.seeds]
    if args.chain:
        furthers[0].chains()[args.chain]()
        return
    if args.at_once > 1:
        train_at_once([(name, one.seed) for one in furthers for name in one.chains()], args.at_once)
    rows, curves = tables(bench, start, furthers)
    removed = "40 % fewer parameters" if size.gmacs is None else f"{100 * size.gmacs:.0f} % of the GMACs"
    title = f"CIFAR-10 (JPEG), {removed}" + ("" if args.size == "full" else f", {args.size}")
    seeds = ", ".join(map(str, args.seeds))
    report(title, body(bench, rows, curves, seeds, args.at_once), args.write)


if __name__ == "__main__":
    main()
