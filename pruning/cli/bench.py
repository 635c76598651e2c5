"""The command `bench`."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from analysis.measure import Runner, bench, torch_runner
from analysis.models import LoadedModel, load
from pruning.bundle import export_onnx, onnx_runner
from pruning.cli.output import Result
from pruning.progress import Progress


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
