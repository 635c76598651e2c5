"""CIFAR-10 (JPEG): a dense ViT, and the smaller ones by GOHSP, spectral and SNP, trained equally long.

    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size transfer --write
    PRUNESCOPE_DATA=FOLDER python benchmarks/cifar10.py --size full --write    # on a GPU, in bfloat16

The common start is a dense model: DeiT-Tiny fine-tuned at 96 x 96 pixels (`transfer`), or a ViT-Small/4
from scratch (`full`), for --epochs. Every other model is then trained from it for --more epochs, so that
all have seen the same number of images: the dense model itself, GOHSP and spectral with 40 % fewer
parameters (of GOHSP's epochs some come before the cut, the rest after), and on DeiT-Tiny SNP at its
published preset. All use the same data and recipe, with the common start as teacher.
If the script is killed, the same command continues from the last checkpoint in --keep; finished phases are
not repeated.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from results import ROOT, data_folder, deit_tiny, parser

from analysis.data import ImageSet, batches, open_training
from analysis.measure import Evaluation, cost, evaluate
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
TESTED = "tested.json"
TITLES = {"dense": "Dense", "gohsp": "GOHSP", "spectral": "Spectral + recovery"}


@dataclass(frozen=True)
class Size:
    """A start, the recipes of its training and of the further training, and their lengths in epochs.

    `heads` are the heads that GOHSP removes from each block on average, as a fraction of all.
    """

    words: str
    side: int  # pixels
    first: Recovery
    further: Recovery
    epochs: float
    more: float
    point: int  # at most so many images between two points of the curve
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


FROM_SCRATCH = Recovery(
    batch=512, lr=1e-3, mixup=0.8, cutmix=1.0, smoothing=0.1, augment="strong", soft=0.5, features=0.0
)
SIZES: dict[str, Size] = {
    "full": FromScratch(
        "ViT-Small/4 (12 blocks, 6 heads, E 384) from scratch",
        side=32,
        first=FROM_SCRATCH,
        further=FROM_SCRATCH,
        epochs=100,
        more=50,
        point=250_000,
    ),
    "transfer": Transfer(
        "DeiT-Tiny (LayerNorms rounded), pre-trained on ImageNet-1k, at 96 x 96 pixels (37 tokens)",
        side=96,
        first=Recovery(batch=128, lr=2e-4, soft=0.0, features=0.0),
        further=Recovery(batch=128, lr=2e-4, soft=0.9, features=1.0),
        epochs=3,
        more=2,
        point=25_000,
        preset="deit-tiny",
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

    def phase(self, name: str, settings: object, work: Callable[[Curve], LoadedModel]) -> Phase:
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
        tested = json.loads((folder / TESTED).read_text(encoding="utf-8"))
        report = find_report(bundle)
        seconds = report.figures()["seconds"] if report else 0.0
        evaluation = Evaluation(**{k: tuple(v) if isinstance(v, list) else v for k, v in tested.items()})
        return Phase(folder, load(str(bundle)), evaluation, seconds)

    def recipe(self, recipe: Recovery, epochs: float) -> Recovery:
        """The recipe for this many passes over the images, split into parts; top-1 is measured after each."""
        wanted = epochs * len(self.images)
        parts = -(-int(wanted) // min(self.size.point, len(self.images)))
        parts = max(parts, -(-int(wanted) // len(self.images)))
        return replace(recipe, epochs=max(parts, 1), images=int(wanted / max(parts, 1)))

    def seen(self, recipe: Recovery) -> int:
        """Number of images a training run reads: whole batches only."""
        return recipe.epochs * (recipe.images // recipe.batch) * recipe.batch

    def dense(self, curve: Curve, recipe: Recovery, seed: int) -> LoadedModel:
        """Train the common start."""
        torch.manual_seed(seed)
        start = self.size.build(self.images.classes)
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


def run(bench: Bench, epochs: float, more: float, seeds: list[int]) -> None:
    first = bench.recipe(bench.size.first, epochs)
    start = bench.phase("start", (first,), lambda curve: bench.dense(curve, first, 0))
    print(start.tested.top1, start.seconds)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--size", choices=tuple(SIZES), default="full")
    arguments.add_argument("--epochs", type=float, help="epochs of the dense model, the common start")
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
    run(bench, epochs, more, args.seeds)


if __name__ == "__main__":
    main()
