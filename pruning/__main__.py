"""The command line: `python -m pruning COMMAND`.

Every command takes --json for one JSON object on standard output; progress and logs go to standard
error. Exit code 0, 2 for bad input with one clear line, 1 for a failure.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from analysis.data import open_data
from analysis.evaluate import evaluate
from analysis.latency import Runner, bench, torch_runner
from analysis.models import LoadedModel, architecture, load
from pruning import commands_heads
from pruning.budget import KINDS, Budget, amount
from pruning.bundle import require_free
from pruning.commands_recover import add_arguments, add_recovery, end_helpers, given_recovery, name_value
from pruning.commands_recover import run as run_recover
from pruning.commands_report import add_report
from pruning.commands_runs import add_commands, add_detach, detach
from pruning.export import FORMATS, ExportError, export_formats, export_onnx, onnx_runner
from pruning.head_locks import Head, HeadLocks, read
from pruning.inputs import Progress, require_classifier, tracked
from pruning.job import Job, default_align, default_skip_unread, method_options
from pruning.kinds import save
from pruning.methods import METHODS
from pruning.monitor import Cancelled
from pruning.outcome import cost_report
from pruning.pipeline import prune
from pruning.selection import PerBlock, Ratios, presets
from pruning.worker import RunFailed

Result = dict[str, Any]


class _Bars:
    """Progress on standard error: one tqdm bar for each thing that is being done."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: tqdm[NoReturn] | None = None

    def __call__(self, what: str, share: float) -> None:
        if self._bar is None or self._what != what:
            self.close()
            layout = "{l_bar}{bar}| {elapsed}<{remaining}"
            # disable=None: no bar where standard error is not a terminal
            self._bar = tqdm(total=100, desc=what, bar_format=layout, file=sys.stderr, disable=None)
            self._what = what
        self._bar.update(round(share * 100) - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _estimate(args: argparse.Namespace, progress: Progress) -> Result:
    dense = architecture(args.model)
    options = method_options(args.method, args.option)
    job = Job(model=args.model, data="", method=args.method, options=options, **_what_to_remove(args))
    return cost_report(dense, job.target(dense))


def _prune(args: argparse.Namespace, progress: Progress) -> Result:
    job = Job(
        model=args.model,
        data=args.data,
        method=args.method,
        weights=str(args.weights) if args.weights else None,
        options=method_options(args.method, args.option),
        calibration=args.calibration,
        limit=args.limit,
        seed=args.seed,
        recovery=given_recovery(args),
        compensate=args.compensate,
        heads_by=args.heads_by,
        **_what_to_remove(args),
    )
    if args.detach:
        return detach(job, args)
    _require_out(args)
    outcome = prune(job, progress=progress)
    end_helpers()
    save(outcome, args.out)
    return outcome.report() | {"out": str(args.out)}


def _require_out(args: argparse.Namespace) -> None:
    if args.out is None:
        raise ValueError("say where the bundle goes: --out DIR, or --detach for a run of its own")
    require_free(args.out)  # now, not after minutes of work


def _evaluate(args: argparse.Namespace, progress: Progress) -> Result:
    loaded = load(args.model, args.weights)
    require_classifier(loaded)
    images = open_data(args.data, loaded.preprocess, loaded.model.arch.num_classes)
    if args.limit is not None:
        images = images.sample(args.limit, args.seed)
    result = evaluate(loaded.model, tracked(images, loaded, "Evaluating", progress))
    names = ("top1", "top5", "top1_low", "top1_high", "images", "seconds")
    return {name: getattr(result, name) for name in names} | {
        "images_per_second": result.images / result.seconds
    }


def _bench(args: argparse.Namespace, progress: Progress) -> Result:
    a, b = load(args.model, args.weights), load(args.against, args.against_weights)
    shapes = [(m.model.arch.in_channels, *m.model.arch.image_size) for m in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"both models must take images of one size, got {shapes[0]} and {shapes[1]}")
    threads = args.threads or torch.get_num_threads()
    results: Result = {"a": args.model, "b": args.against, "threads": threads, "rounds": args.rounds}
    for backend in args.backend:
        with tempfile.TemporaryDirectory() as folder:
            timings = bench(
                _runner(backend, a, Path(folder) / "a.onnx", threads),
                _runner(backend, b, Path(folder) / "b.onnx", threads),
                shapes[0],
                args.batch,
                threads=threads,
                rounds=args.rounds,
                progress=partial(progress, f"Timing {backend}"),
            )
        results[backend] = {"batches": {str(batch): asdict(timing) for batch, timing in timings.items()}}
    return results | results[args.backend[0]]


def _runner(backend: str, loaded: LoadedModel, file: Path, threads: int) -> Runner:
    if backend == "torch":
        return torch_runner(loaded.model)
    export_onnx(loaded.model, file)
    return onnx_runner(file, threads)


def _export(args: argparse.Namespace, progress: Progress) -> Result:
    loaded = load(args.model, args.weights)
    files = export_formats(loaded, args.format, args.out)
    return {name: str(path) for name, path in files.items()}


def _what_to_remove(args: argparse.Namespace) -> Result:
    ratios = {field.name: getattr(args, field.name) for field in fields(Ratios)}
    budget = {field.name: getattr(args, f"budget_{field.name}") for field in fields(Budget)}
    given = {name: value for name, value in budget.items() if value is not None}
    asked = Budget(**given) if given else None
    return {
        "ratios": Ratios(**{name: value for name, value in ratios.items() if value is not None}),
        "preset": args.preset,
        "budget": asked,
        "align": default_align(asked) if args.align is None else args.align,
        "locks": HeadLocks(args.keep_heads, args.remove_heads),
        "skip_unread": default_skip_unread(asked) if args.skip_unread is None else args.skip_unread,
    }


def _heads(text: str) -> tuple[Head, ...]:
    try:
        return read(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _per_block(text: str) -> PerBlock:
    numbers = tuple(float(word) for word in text.split(","))
    return numbers if len(numbers) > 1 else numbers[0]


def _listed(kind: Callable[[str], Any], allowed: Sequence[str] = ()) -> Callable[[str], list[Any]]:
    def parse(text: str) -> list[Any]:
        values = [kind(word) for word in text.split(",")]
        for value in values:
            if allowed and value not in allowed:
                raise argparse.ArgumentTypeError(f"{value!r} is none of {', '.join(allowed)}")
        return values

    return parse


class _Parser(argparse.ArgumentParser):
    """Bad arguments are one line on standard error and exit code 2, without the usage text."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pruning", description=__doc__.partition("\n")[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def command(name: str, run: Callable[[argparse.Namespace, Progress], Result], help: str) -> _Parser:
        sub: _Parser = commands.add_parser(name, help=help.replace("%", "%%"), description=help)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.add_argument(
            "--model", required=True, metavar="M", help="demo, a timm name, hf-hub:ID or a bundle"
        )
        return sub

    estimate = command("estimate", _estimate, "Parameters, GMACs and bytes before and after, without images.")
    _add_method(estimate)
    _add_ratios(estimate)
    pruned = command("prune", _prune, "Score, cut, evaluate, and write the smaller model as a bundle.")
    _add_ratios(pruned)
    _add_method(pruned)
    pruned.add_argument(
        "--compensate", action="store_true", help="refit proj and fc2 by least squares after choosing"
    )
    pruned.add_argument("--heads-by", metavar="NAME", help="criterion that removes the heads first")
    pruned.add_argument("--calibration", metavar="D", help="other images to measure importance on")
    pruned.add_argument("--out", type=Path, metavar="DIR")
    add_recovery(pruned)
    add_detach(pruned)
    recovered = command("recover", run_recover, "Fine-tune a pruned model with the dense one as teacher.")
    add_arguments(recovered)
    evaluated = command("evaluate", _evaluate, "Top-1 and top-5 with a 95 % interval, images per second.")
    for sub in (pruned, evaluated):
        sub.add_argument(
            "--data",
            required=True,
            metavar="D",
            help="demo, an image folder, a zip of one, or cifar10:FOLDER",
        )
        sub.add_argument("--limit", type=int, metavar="N", help="test on at most N images")
        sub.add_argument("--seed", type=int, default=0)
    timed = command("bench", _bench, "Latency of two models, measured in turns, with a verdict.")
    timed.add_argument("--against", required=True, metavar="B", help="the model to compare with")
    timed.add_argument("--against-weights", type=Path, metavar="FILE")
    timed.add_argument("--batch", type=_listed(int), default=[1, 8], metavar="1,8")
    timed.add_argument("--threads", type=int, metavar="N")
    timed.add_argument("--rounds", type=int, default=30)
    timed.add_argument(
        "--backend", type=_listed(str, ("torch", "onnx")), default=["torch"], metavar="torch,onnx"
    )
    exported = command("export", _export, "Write bundle, ONNX or pt2, each checked against the model.")
    exported.add_argument(
        "--format", type=_listed(str, FORMATS), default=["bundle"], metavar=",".join(FORMATS)
    )
    exported.add_argument("--out", type=Path, required=True, metavar="DIR")
    measured = command("heads", commands_heads.run, "What every head is worth, by every measure.")
    commands_heads.add_arguments(measured)
    add_commands(commands)
    add_report(commands)
    for sub in (pruned, recovered, evaluated, timed, exported, estimate, measured):
        sub.add_argument("--weights", type=Path, metavar="FILE", help="local weights of a timm model")
    return parser


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", default="snp", metavar="NAME", help=f"one of {', '.join(METHODS)}")
    parser.add_argument("--option", type=name_value, action="append", default=[], metavar="NAME=VALUE")


def _add_ratios(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", metavar="NAME", help=f"one of {', '.join(presets())}")
    parser.add_argument(
        "--align", type=int, metavar="N", help="round widths to multiples of N (1; with a budget 8)"
    )
    parser.add_argument(
        "--skip-unread",
        action=argparse.BooleanOptionalAction,
        help="the last block computes only tokens the classifier reads (on for a budget of GMACs)",
    )
    for field in fields(Ratios):
        kind = float if field.name == "embed" else _per_block
        parser.add_argument(
            f"--{field.name}", type=kind, metavar="R", help=f"fraction of {field.name} to remove"
        )
    for verb in ("keep", "remove"):
        parser.add_argument(
            f"--{verb}-heads", type=_heads, default=(), metavar="B.H,...", help=f"heads to {verb} in any case"
        )
    for name, unit in KINDS.items():
        parser.add_argument(
            f"--budget-{name}", type=float, metavar="X", help=f"find widths for at most X {unit}"
        )
    parser.add_argument("--budget-batch", type=int, metavar="N", help="images at once, for a budget in ms")
    parser.add_argument("--budget-images", type=int, metavar="N", help="images that narrowing is tried on")


def _print(result: Result, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if not isinstance(value, dict):
            print(f"{name:20} {f'{value:,.4f}' if isinstance(value, float) else value}")
        elif "batches" in value:
            _print_timings(name, value["batches"])
        elif "asked" in value:
            asked, got = (amount(value[key], value["kind"]) for key in ("asked", "got"))
            print(f"{name:20} asked for {asked}, got {got}")


def _print_timings(backend: str, batches: Result) -> None:
    for batch, timing in batches.items():
        print(f"{backend}, batch {batch}: {timing['speedup']:.2f} times as fast, {timing['verdict']}")
        for side in ("a", "b"):
            shown = ", ".join(f"{key} {ms:.2f}" for key, ms in timing[f"{side}_ms"].items())
            print(f"  {side}, ms: {shown}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = _parser().parse_args(argv)
    bars = _Bars()
    try:
        result = args.run(args, bars)
    except ValueError as error:
        bars.close()
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, ExportError, RunFailed) as error:
        bars.close()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Cancelled:
        bars.close()
        print("cancelled", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        bars.close()
        print("interrupted: nothing was written", file=sys.stderr)
        return 1
    bars.close()
    _print(result, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
