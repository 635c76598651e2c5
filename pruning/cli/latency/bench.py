"""The command `bench`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import torch

from analysis.measure import LOOKS, MOST_BATCH, MOST_ROUNDS, compare, require_bounds
from analysis.threads import MOST_THREADS
from pruning.cli.arguments import (
    as_text,
    comma_separated,
    name_argument,
    path_argument,
    reading_from,
    whole_number,
)
from pruning.cli.output import Result
from pruning.jobs import BACKENDS, load_to_time, time_models
from pruning.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `bench` besides --model, --weights and --json."""
    parser.add_argument(
        "--against", type=name_argument, required=True, metavar="B", help="the model to compare with"
    )
    parser.add_argument(
        "--against-weights", type=path_argument, metavar="FILE", help="local weights of model B"
    )
    parser.add_argument(
        "--batch",
        type=comma_separated(whole_number),
        default=[1, 8],
        metavar="1,8",
        help=f"batch sizes, at most {MOST_BATCH:,}",
    )
    parser.add_argument(
        "--threads",
        type=whole_number,
        metavar="N",
        help=f"number of threads, at most {MOST_THREADS} (default: torch's)",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number,
        default=30,
        metavar="N",
        help=f"rounds before the first verdict, at most {MOST_ROUNDS:,}, doubled up to {LOOKS - 1} times "
        "while the models are not distinguishable (default: 30)",
    )
    parser.add_argument(
        "--backend", type=comma_separated(str, tuple(BACKENDS)), default=["torch"], metavar=",".join(BACKENDS)
    )


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Time both models on every requested backend; the first backend's figures are also at the top level.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    require_bounds(args.batch, args.rounds, args.threads)
    named = [(args.model, args.weights), (args.against, args.against_weights)]
    models = load_to_time([(name, as_text(weights)) for name, weights in named], reading_from(args))
    threads = args.threads or torch.get_num_threads()
    results: Result = {"a": args.model, "b": args.against, "threads": threads, "rounds": args.rounds}
    for backend in args.backend:
        found = time_models(models, args.batch, threads, args.rounds, backend=backend, progress=progress)
        batches = {str(batch): asdict(compare(times[0], times[1])) for batch, times in found.items()}
        results[backend] = {"batches": batches}
    return results | results[args.backend[0]]
