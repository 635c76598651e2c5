"""A comparison as one self-contained HTML file, for readers without the app."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from analysis.attention import (
    Style,
    attention_maps,
    colour,
    covered,
    data_uri,
    default_row,
    enlarge,
    overlay,
    preservation,
    rollout_maps,
    sheet,
    thumbnail,
)
from analysis.head_grid import head_grid
from analysis.measure import BINS, NEIGHBOURS, confusion_changes, reliability
from analysis.paths import open_regular
from analysis.vit import Architecture
from pruning import wording
from pruning.progress import Progress, quiet
from pruning.report import charts
from pruning.report.comparison import ComparedModel, Comparison, aligned, trade_front
from pruning.report.objects import object_scores
from pruning.report.quantized import int8_columns
from pruning.wording import base_name

FLIPS = 24  # thumbnails per model
PAIRS = 12  # rows in the table of confused classes
SIDE, WIDE = 224, 860  # pixels: side of the largest photo, and width of a row of photos
SHEET = 500, 36  # width of the sheet of all heads and its largest cell, in pixels
GENERATOR = "PruneScope report"  # named in the page's head, by which a report is recognised
_TEMPLATE = "report.html.jinja"


@dataclass(frozen=True)
class Picture:
    """An image in the page, with alternative text and a caption."""

    uri: str
    alt: str
    caption: str = ""


def make_report(found: Comparison, image: int = 0, progress: Progress = quiet) -> str:
    """The report as HTML: without scripts or network access, and with all names escaped.

    Maps are shown for the test image `image` and for the first image that a smaller model lost.

    Raises:
        ValueError: no such image, or one cannot be read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    if not 0 <= image < len(found.tested):
        raise ValueError(f"there are {len(found.tested)} test images, numbered from 0; got {image}")
    progress("Drawing charts", 0.0)
    content = _figures(found) | _charts(found)
    progress("Reading attention", 0.2)
    content |= {"looks": [_look(found, number) for number in _shown(found, image)]}
    content |= {"heads": _heads(found, image, progress)}
    content |= {"objects": _objects(found, progress)}
    progress("Drawing changed predictions", 0.9)
    content |= {"changes": [_changes(found, model) for model in found.others]}
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE).render(content)
    progress("Drawing changed predictions", 1.0)
    return page


def is_report(file: Path) -> bool:
    """Whether a file is a report that `make_report` made.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(file) as stream:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in stream.read(1024)


# ---- numbers


def _figures(found: Comparison) -> dict[str, Any]:
    return {
        "generator": GENERATOR,
        "title": f"{base_name(found.dense.source.model)} and {', '.join(m.name for m in found.others)}",
        "data": found.data,
        "images": found.dense.result.images,
        "date": date.today().isoformat(),
        "versions": {
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "timm")},
        },
        "models": [{"model": model, "in_short": _in_short(model, found.dense)} for model in found.models],
        "rows": _rows(found),
        "widths": _widths(found),
        "merges": _merges(found),
        "timings": found.timings,
        "latency": _latency(found),
        "rounds": wording.from_to(map(found.timings.rounds_of, found.timings.ms)) if found.timings else "",
        "int8": _int8(found),
        "commands": [(model.name, without_paths(model.command)) for model in found.others if model.command],
    }


def without_paths(command: str) -> str:
    """A command line with file names only, without the folders of one machine."""
    return shlex.join(base_name(word) if "/" in word else word for word in shlex.split(command))


def _in_short(model: ComparedModel, dense: ComparedModel) -> str:
    if model is dense:
        return ""
    return (
        f"{wording.change(dense.cost.params, model.cost.params)} parameters, "
        f"{wording.change(dense.cost.macs, model.cost.macs)} MACs, "
        f"{wording.accuracy_within(model.result)} {wording.points(dense.result.top1, model.result.top1)}"
    )


def _rows(found: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    """The rows of the table: a title, and for each model a figure and its change."""
    dense = found.dense

    def row(name: str, figure: Any, change: Any = None) -> tuple[str, list[tuple[str, str]]]:
        cells = [
            (figure(model), "" if change is None or model is dense else change(model))
            for model in found.models
        ]
        return name, cells

    rows = [
        row(
            wording.accuracy_name(dense.result),
            lambda m: wording.percent(m.result.top1),
        ),
        row(
            f"Change of {wording.accuracy_within(dense.result)} (95 % interval)",
            lambda m: "" if m is dense else wording.paired_points(m.top1_change(dense)),
            lambda m: wording.by_chance(m.top1_change(dense)),
        ),
        row(
            "95 % interval (Wilson)",
            lambda m: f"{100 * m.result.top1_low:.1f} to {100 * m.result.top1_high:.1f}{wording.NBSP}%",
        ),
        row("Measured", lambda m: m.when),
        row("Before fine-tuning", lambda m: wording.percent(m.start.top1) if m.start else ""),
        row(
            "Top-5",
            lambda m: wording.percent(m.result.top5) if found.classifies else "",
            lambda m: wording.points(dense.result.top5, m.result.top5),
        ),
        row(
            "Agreement with dense",
            lambda m: "" if m is dense else wording.percent(m.agreement(dense).share),
        ),
        *(
            row(name, lambda m, name=name: wording.likeness(m.result).get(name, ""))
            for name in dict.fromkeys(name for m in found.others for name in wording.likeness(m.result))
        ),
        row("Calibration error (ECE)", lambda m: wording.percent(m.ece) if found.classifies else ""),
        row(
            "Parameters",
            lambda m: wording.count(m.cost.params),
            lambda m: wording.real_change(dense.cost.params, m.cost.params) or "as before",
        ),
        row(
            "GMACs per image",
            lambda m: f"{m.cost.gmacs:,.4f}",
            lambda m: wording.real_change(dense.cost.macs, m.cost.macs) or "as before",
        ),
        row("Weights, float32", lambda m: wording.megabytes(m.cost.bytes)),
        row("Weights, float16", lambda m: wording.megabytes(m.cost.bytes // 2)),
        row("Stored in", lambda m: m.dtype),
    ]
    return [(name, cells) for name, cells in rows if any(figure for figure, _ in cells)]


def _int8(found: Comparison) -> dict[str, dict[str, str]]:
    return int8_columns((model.name, model.int8) for model in found.models)


def _widths(found: Comparison) -> list[list[str]]:
    """The rows of the table of widths, one per block: heads x (pairs, values) and neurons of each model.

    Where any merges tokens, those that the block is given come last.
    """

    def told(arch: Architecture) -> Iterator[str]:
        for block, tokens in zip(arch.blocks, arch.tokens, strict=False):
            line = f"{block.heads} × ({block.qk}, {block.v}), {block.mlp:,}"
            yield f"{line}, {tokens:,}" if _merges(found) else line

    rows = zip_longest(*(told(model.arch) for model in found.models), fillvalue="")
    return [list(row) for row in rows]


def _merges(found: Comparison) -> bool:
    return any(model.arch.merges for model in found.models)


def _latency(found: Comparison) -> list[tuple[str, list[str], str]]:
    timed = found.timings
    if timed is None:
        return []
    rows = []
    for batch in sorted(timed.ms):
        for model in found.models:
            times = timed.of(model.source, batch)
            timing = timed.between(model.source, found.dense.source, batch)
            verdict = "" if model is found.dense else wording.speedup(timing)
            shown = [wording.milliseconds(value) for value in (times.p10, times.p50, times.p90)]
            rows.append((f"{model.name}, batch {batch}", shown, verdict))
    return rows


def _charts(found: Comparison) -> dict[str, Any]:
    names = {model.name for model in found.models}
    front = trade_front(found.trades)
    return {
        "trade_off": charts.trade_off(found.trades, front, names),
        "front": [trade.name for trade in front],
        "widths_chart": charts.widths([(m.name, m.arch) for m in found.models]),
        "calibration": charts.calibration([(m.name, m.ece, reliability(m.result)) for m in found.models])
        if found.classifies
        else "",
        "accuracy": wording.accuracy_within(found.dense.result),
        "about": wording.accuracy_meaning(found.dense.result),
        "bins": BINS,
    }


# ---- pictures


def _shown(found: Comparison, image: int) -> list[int]:
    """The requested image, and the first one that a smaller model lost."""
    lost = [number for model in found.others for number in model.agreement(found.dense).lost[:1]]
    return list(dict.fromkeys([image, *lost]))[:2]


def _look(found: Comparison, number: int) -> list[Picture]:
    """A photo, and the rollout of every model drawn over it."""
    test, preprocess = found.tested, found.load(found.dense.source).preprocess
    crop = covered(test.image(number), preprocess, found.dense.arch)
    wide = min(SIDE, WIDE // (len(found.models) + 1) - 12)
    crop = enlarge(crop, round(wide * max(crop.size) / crop.width))
    true = found.class_name(found.dense.result.labels[number])
    pictures = [Picture(data_uri(crop), "the photo as the models see it", f"#{number}, {true}")]
    for model in found.models:
        loaded = found.load(model.source)
        values = rollout_maps(loaded.model, loaded.preprocess(test.image(number)))
        shown = overlay(crop, values[default_row(loaded.model.arch)].numpy(), Style())
        predicted = found.class_name(model.result.predictions[number])
        confidence = wording.percent(model.result.confidences[number])
        caption = f"{model.name}: {predicted}, {confidence}"
        pictures.append(Picture(data_uri(shown), f"rollout of {model.name}", caption))
    return pictures


def _heads(found: Comparison, number: int, progress: Progress) -> list[dict[str, Any]]:
    """The maps of all heads of each model, and how far they preserve those of the dense model."""
    dense, test = found.load(found.dense.source), found.tested
    image = dense.preprocess(test.image(number))
    crop = covered(test.image(number), dense.preprocess, found.dense.arch)
    shown = []
    for place, model in enumerate(found.models):
        progress("Reading attention", 0.2 + 0.4 * place / len(found.models))
        loaded = found.load(model.source)
        kept = model.kept(dense.model.arch)
        maps = attention_maps(loaded.model, loaded.preprocess(test.image(number)))
        planes = aligned(maps, default_row(loaded.model.arch), kept, dense.model.arch)
        entry: dict[str, Any] = {"model": model, "unknown": None in kept, "preserved": None}
        entry["sheet"] = Picture(data_uri(sheet(crop, planes, *SHEET)), f"attention maps of {model.name}")
        if model is not found.dense and any(kept):
            values = preservation(dense.model, loaded.model, [image[None]], kept)
            entry["preserved"] = _cells([row.tolist() for row in values])
        shown.append(entry)
    return shown


def _objects(found: Comparison, progress: Progress) -> dict[str, Any] | None:
    """How well attention matches the objects, if the test images are demo scenes."""
    if not found.tested.rendered:
        return None
    scores = []
    for place, model in enumerate(found.models):
        share = lambda part, place=place: 0.6 + 0.3 * (place + part) / len(found.models)
        part_done = lambda what, part, share=share: progress(what, share(part))
        scores.append(object_scores(found.load(model.source), found.tested, part_done, "Reading scenes"))
    rows = [score.rows() for score in scores]
    return {
        "rows": [(name, [row[name] for row in rows]) for name in rows[0]],
        "images": scores[0].heads.images,
        "mass": wording.percent(scores[0].heads.mass_by_chance),
        "pointing": wording.percent(scores[0].heads.pointing_by_chance),
    }


def _cells(values: Sequence[Sequence[float]]) -> list[list[tuple[str, str, str]]]:
    """Rows of the table of heads: text, background and text colour of each cell."""
    return [[_cell(value) for value in row] for row in head_grid(values, float("nan"))]


def _cell(value: float) -> tuple[str, str, str]:
    if value != value:
        return "", "transparent", "inherit"
    red, green, blue = colour(torch.tensor([max(value, 0.0)]).numpy(), "viridis")[0].tolist()
    return f"{value:.2f}", f"#{red:02x}{green:02x}{blue:02x}", "#fff" if value < 0.6 else "#111"


def _changes(found: Comparison, model: ComparedModel) -> dict[str, Any]:
    agreement = model.agreement(found.dense)
    shown = [*agreement.lost, *agreement.gained]
    shown += [number for number in agreement.flips if number not in set(shown)]
    confused = found.dense.result.measure != NEIGHBOURS
    pairs = confusion_changes(found.dense.result, model.result) if confused else ()
    return {
        "model": model,
        "flips": len(agreement.flips),
        "lost": len(agreement.lost),
        "gained": len(agreement.gained),
        "shown": list(_thumbnails(found, model, shown[:FLIPS])),
        "pairs": [
            (found.class_name(pair.label), found.class_name(pair.predicted), pair.before, pair.after)
            for pair in pairs[:PAIRS]
        ],
        "more": max(len(pairs) - PAIRS, 0),
    }


def _thumbnails(found: Comparison, model: ComparedModel, numbers: Sequence[int]) -> Iterator[Picture]:
    preprocess = found.load(found.dense.source).preprocess
    for number in numbers:
        true, before, after = (
            found.class_name(index)
            for index in (
                model.result.labels[number],
                found.dense.result.predictions[number],
                model.result.predictions[number],
            )
        )
        picture = thumbnail(found.tested.image(number), preprocess, 96)
        yield Picture(data_uri(picture), f"image {number}, {true}", f"{before} → {after}")
