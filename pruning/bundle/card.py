"""The model card of a bundle: what it is, what was measured, how to load it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from analysis.measure import cost
from analysis.models import ARCHITECTURE_FILE, PREPROCESS_FILE, WEIGHTS_FILE, Preprocess
from analysis.vit import Architecture
from pruning.bundle.layout import CODE_FILE, EXAMPLE_FILE
from pruning.wording import base_name

Report = Mapping[str, object]

_PLACES = ("model", "weights", "teacher", "teacher_weights", "data", "calibration", "test_data")

LOADER = f"""\
from safetensors.torch import load_file
from {Path(CODE_FILE).stem} import Architecture, ViT
model = ViT(Architecture.from_json(open("{ARCHITECTURE_FILE}").read())).eval()
model.load_state_dict(load_file("{WEIGHTS_FILE}"))
"""


def card(name: str, arch: Architecture, preprocess: Preprocess, report: Report, *, pruned: bool) -> str:
    """Markdown with a YAML head, in the style of Hugging Face.

    `name` is the model that was loaded, unless the report names it (`model`). `report` has the
    keys of `prune --json`: `top1_low_after` and `top1_high_after` (or `top1_low`, `top1_high`)
    bound `top1_after`. What the report lacks is left out.
    """
    origin = base_name(str(report.get("model") or name))
    parts = (
        _front_matter(origin, pruned),
        f"# {origin}, pruned\n" if pruned else f"# {origin}\n",
        _origin(origin, report, pruned),
        _figures(arch, report, pruned),
        _usage(preprocess),
        _licence(origin),
    )
    return "\n".join(part for part in parts if part)


def without_places(report: Report) -> dict[str, object]:
    """The report as it may travel: models and data by their names, without the folders of one machine."""
    told = {name: _named(name, value) for name, value in report.items()}
    job = told.get("job")
    if isinstance(job, Mapping):
        told["job"] = {name: _named(name, value) for name, value in job.items()}
    return told


def _named(name: str, value: object) -> object:
    return base_name(value) if name in _PLACES and isinstance(value, str) else value


def _front_matter(name: str, pruned: bool) -> str:
    lines = ["---", "library_name: prunescope", "pipeline_tag: image-classification"]
    if name.startswith("hf-hub:"):
        lines.append(f"base_model: {json.dumps(name.removeprefix('hf-hub:'))}")
    lines += ["license: other", "license_name: that-of-the-original-weights"]
    tags = ["vision-transformer", "image-classification", "pytorch", "safetensors"]
    lines += ["tags:", *(f"- {tag}" for tag in (*tags, *["pruned"] * pruned)), "---\n"]
    return "\n".join(lines)


def _origin(name: str, report: Report, pruned: bool) -> str:
    if not pruned:
        return f"The Vision Transformer `{name}`, not pruned, saved by PruneScope.\n"
    text = f"A Vision Transformer pruned by PruneScope from `{name}`"
    if report.get("method"):
        text += f" with the method `{report['method']}`"
    removed = _removed(report)
    return f"{text}.\n" + (f"\nRemoved: {removed}.\n" if removed else "")


def _removed(report: Report) -> str:
    """The ratios or the preset, which stand in the report or in the job that it carries."""
    job = report.get("job")
    source = job if isinstance(job, Mapping) else report
    if source.get("preset"):
        return f"the ratios of the preset `{source['preset']}`"
    ratios = source.get("ratios")
    return _ratios(ratios) if isinstance(ratios, Mapping) else ""


def _ratios(ratios: Mapping[str, object]) -> str:
    shown = []
    for structure, value in ratios.items():
        fractions = value if isinstance(value, list | tuple) else (value,)
        numbers = [float(fraction) for fraction in fractions if isinstance(fraction, int | float)]
        if not any(numbers):
            continue
        low, high = min(numbers), max(numbers)
        share = f"{100 * low:.4g} %" if low == high else f"{100 * low:.4g} to {100 * high:.4g} % by block"
        shown.append(f"{structure} {share}")
    return ", ".join(shown)


def _figures(arch: Architecture, report: Report, pruned: bool) -> str:
    own = cost(arch)
    stage = "after fine-tuning" if report.get("fine_tuned") else "before fine-tuning"
    label = f"Top-1, {stage}" if pruned else "Top-1"
    top1 = _row(label, _number(report, "top1_before"), _number(report, "top1_after"), 100, " %")
    params = _number(report, "params_before"), _number(report, "params_after") or own.params
    gmacs = _number(report, "gmacs_before"), _number(report, "gmacs_after") or own.gmacs
    rows = [_row("Parameters", *params, 1e-6, " M"), _row("MACs per image", *gmacs, 1, " G"), top1]
    table = ["| | before | after |", "|---|---|---|", *(row for row in rows if row)]
    notes = [note for note in (_sample(report), _interval(report), _time(report), _unread(arch)) if note]
    return "\n".join(["## Figures\n", *table, ""]) + (f"\n{' '.join(notes)}\n" if notes else "")


def _row(label: str, before: float | None, after: float | None, factor: float, unit: str) -> str:
    if before is None and after is None:
        return ""
    cells = ("" if value is None else f"{_digits(value * factor)}{unit}" for value in (before, after))
    return f"| {label} | " + " | ".join(cells) + " |"


def _digits(value: float) -> str:
    """Four significant digits below ten, two decimals above: 0.6382, 3.013, 78.67."""
    return f"{value:.2f}" if value >= 10 else f"{value:.4g}"


def _sample(report: Report) -> str:
    images = _number(report, "images")
    if images is None:
        return ""
    data = f" of `{base_name(str(report['data']))}`" if report.get("data") else ""
    return f"Accuracy was measured on {images:.0f} images{data}."


def _interval(report: Report) -> str:
    found = []
    for when, suffix in (("before", "_before"), ("after", "_after"), ("after", "")):
        low, high = _number(report, f"top1_low{suffix}"), _number(report, f"top1_high{suffix}")
        if low is not None and high is not None:
            found.append(f"{_digits(100 * low)} to {_digits(100 * high)} % {when} pruning")
    return f"The 95 % interval (Wilson) of top-1 is {' and '.join(found)}." if found else ""


def _time(report: Report) -> str:
    seconds = _number(report, "seconds")
    return "" if seconds is None else f"The run took {seconds:.1f} s."


def _unread(arch: Architecture) -> str:
    return (
        "Of the last block only the tokens that the classifier reads are computed."
        if arch.skip_unread
        else ""
    )


def _number(report: Report, key: str) -> float | None:
    value = report.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _usage(preprocess: Preprocess) -> str:
    rows, columns = preprocess.image_size
    return (
        "## Use\n\nWith torch and safetensors alone, in this folder:\n\n"
        f"```python\n{LOADER}```\n\n"
        f"The input is `B {len(preprocess.mean)} {rows} {columns}`, prepared as `{PREPROCESS_FILE}` says; "
        f"`{EXAMPLE_FILE}` does that for a photo and prints the five likeliest classes:\n\n"
        f"```\npip install torch safetensors pillow\npython {EXAMPLE_FILE} photo.jpg\n```\n"
    )


def _licence(name: str) -> str:
    return (
        "## Licence\n\n"
        f"The weights keep the licence of the model they came from (`{name}`). "
        f"`{CODE_FILE}` and `{EXAMPLE_FILE}` are part of PruneScope, Apache-2.0.\n"
    )
