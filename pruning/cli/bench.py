"""The command `bench`."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import torch

from analysis.measure import judge
from pruning.cli.output import Result
from pruning.jobs import load_to_time, time_models
from pruning.progress import Progress


def run(args: argparse.Namespace, progress: Progress) -> Result:
    """Time both models on every backend asked for; the first one's figures are the result's own.

    Raises:
        ValueError: bad input of any kind, in one sentence.
    """
    named = [(args.model, args.weights), (args.against, args.against_weights)]
    models = load_to_time([(name, str(weights) if weights else None) for name, weights in named])
    threads = args.threads or torch.get_num_threads()
    results: Result = {"a": args.model, "b": args.against, "threads": threads, "rounds": args.rounds}
    for backend in args.backend:
        found = time_models(models, args.batch, threads, args.rounds, backend=backend, progress=progress)
        batches = {str(batch): asdict(judge(*times)) for batch, times in found.items()}
        results[backend] = {"batches": batches}
    return results | results[args.backend[0]]
