"""The model card of a bundle: where the model comes from, its figures, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.formats import plain
from analysis.measure import cost
from analysis.models import ARCHITECTURE_FILE, PREPROCESS_FILE, WEIGHTS_FILE, Preprocess
from analysis.vit import Architecture
from pruning.bundle.layout import CODE_FILE, EXAMPLE_FILE
from pruning.bundle.report import RECOVER, Report
from pruning.wording import STRUCTURE_NAMES, base_name, by_chance, from_to, paired_points, share_of

LOADER = f"""\
from safetensors.torch import load_file
from {Path(CODE_FILE).stem} import Architecture, ViT
model = ViT(Architecture.from_json(open("{ARCHITECTURE_FILE}").read())).eval()
model.load_state_dict(load_file("{WEIGHTS_FILE}"))
"""


def card(
    name: str,
    arch: Architecture,
    preprocess: Preprocess,
    report: Report,
    *,
    pruned: bool,
    half: bool = False,
    transformers: bool = False,
) -> str:
    """A model card in Markdown with YAML front matter, in the style of Hugging Face.

    `name` is the model that was loaded, unless the report names it. `top1_low_after` and
    `top1_high_after` (or `top1_low`, `top1_high`) are the interval of `top1_after`. Figures that the report
    lacks are omitted. Weights are sized in the precision of the bundle, before and after alike: float16 with
    `half`, else float32. With `transformers` the card says how transformers loads the folder.
    """
    origin = base_name(report.model or name)
    parts = (
        _front_matter(origin, pruned, bool(arch.num_classes), transformers),
        f"# {origin}, pruned\n" if pruned else f"# {origin}\n",
        _origin(origin, report, pruned),
        _figures(arch, report, pruned, half),
        _transformers(bool(arch.num_classes)) if transformers else "",
        _usage(preprocess, bool(arch.num_classes)),
        _licence(origin),
    )
    return "\n".join(part for part in parts if part)


def _front_matter(name: str, pruned: bool, classifies: bool, transformers: bool) -> str:
    task = "image-classification" if classifies else "image-feature-extraction"
    lines = ["---", f"library_name: {'transformers' if transformers else 'prunescope'}"]
    lines.append(f"pipeline_tag: {task}")
    if name.startswith("hf-hub:"):
        lines.append(f"base_model: {json.dumps(name.removeprefix('hf-hub:'))}")
    lines += ["license: other", "license_name: that-of-the-original-weights"]
    tags = ["vision-transformer", task, "pytorch", "safetensors"]
    tags += ["custom_code"] * transformers + ["pruned"] * pruned
    lines += ["tags:", *(f"- {tag}" for tag in tags), "---\n"]
    return "\n".join(lines)


def _origin(name: str, report: Report, pruned: bool) -> str:
    if not pruned:
        return f"The Vision Transformer `{name}`, not pruned, saved by PruneScope.\n"
    method = report.pruned_by if report.method == RECOVER else report.method
    text = f"A Vision Transformer pruned by PruneScope from `{name}`"
    text += f" with the method `{method}`" if method else ""
    text += ", then fine-tuned with the dense model as teacher" if report.fine_tuned else ""
    removed = _removed(report)
    return f"{text}.\n" + (f"\nRemoved: {removed}.\n" if removed else "")


def _removed(report: Report) -> str:
    """What was removed: the ratios or preset of the job in the report, or of the report itself."""
    preset, ratios = report.preset, report.ratios
    if report.job is not None and report.method != RECOVER:
        preset, ratios = report.job.get("preset"), report.job.get("ratios")
    if preset:
        return f"the ratios of the preset `{preset}`"
    ratios = plain(ratios)
    return _ratios(ratios) if isinstance(ratios, Mapping) else ""


def _ratios(ratios: Mapping[str, object]) -> str:
    shown = []
    for structure, value in ratios.items():
        fractions = value if isinstance(value, list | tuple) else (value,)
        numbers = [float(fraction) for fraction in fractions if isinstance(fraction, int | float)]
        if structure in STRUCTURE_NAMES and any(numbers):
            uniform = min(numbers) == max(numbers)
            shown.append(share_of(structure, numbers, ".4g") + ("" if uniform else " by block"))
    return ", ".join(shown)


def _figures(arch: Architecture, report: Report, pruned: bool, half: bool) -> str:
    own = cost(arch)
    label, (before, after) = _accuracy(report)
    top1 = _row(f"{label}, {report.stage}" if pruned else label, before, after, 100, " %")
    params = report.params_before, report.params_after or own.params
    gmacs = report.gmacs_before, report.gmacs_after or own.gmacs
    size, dtype = (2e-6, "float16") if half else (4e-6, "float32")
    rows = [
        _row("Parameters", *params, 1e-6, " M"),
        _row(f"Weights in {dtype}", *params, size, " MB"),
        _row("MACs per image", *gmacs, 1, " G"),
        top1,
        _row("Cosine with the dense model's pooled features", None, report.cosine_pooled, 1, ""),
        _row("Cosine with the dense model's patch tokens", None, report.cosine_tokens, 1, ""),
        _row("Linear CKA of the pooled features", None, report.cka, 1, ""),
    ]
    table = ["| | before | after |", "|---|---|---|", *(row for row in rows if row)]
    notes = [note for note in (_sample(report), _interval(report), _change(report), _time(report)) if note]
    notes += [note for note in (_unread(arch), _merging(arch), _absent(arch)) if note]
    return "\n".join(["## Figures\n", *table, ""]) + (f"\n{' '.join(notes)}\n" if notes else "")


def _accuracy(report: Report) -> tuple[str, tuple[float | None, float | None]]:
    """What was measured, and its values before and after."""
    if report.knn_after is not None:
        return "Top-1 of k nearest neighbours", (report.knn_before, report.knn_after)
    if report.neighbours_after is not None:
        return "Images with the same nearest neighbour", (report.neighbours_before, report.neighbours_after)
    return "Top-1", (report.top1_before, report.top1_after)


def _row(label: str, before: float | None, after: float | None, factor: float, unit: str) -> str:
    if before is None and after is None:
        return ""
    cells = ("" if value is None else f"{_digits(value * factor)}{unit}" for value in (before, after))
    return f"| {label} | " + " | ".join(cells) + " |"


def _digits(value: float) -> str:
    """Four significant digits below ten, two decimals above: 0.6382, 3.013, 78.67."""
    return f"{value:.2f}" if value >= 10 else f"{value:.4g}"


def _sample(report: Report) -> str:
    if report.images is None:
        return ""
    data = f" of `{base_name(report.data)}`" if report.data else ""
    return f"Accuracy was measured on {report.images} images{data}."


def _interval(report: Report) -> str:
    found = []
    for when, low, high in (
        ("before", report.top1_low_before, report.top1_high_before),
        ("after", report.top1_low_after, report.top1_high_after),
        ("after", report.top1_low, report.top1_high),
        ("before", report.knn_low_before, report.knn_high_before),
        ("after", report.knn_low_after, report.knn_high_after),
        ("after", report.neighbours_low_after, report.neighbours_high_after),
    ):
        if low is not None and high is not None:
            found.append(f"{_digits(100 * low)} to {_digits(100 * high)} % {when} pruning")
    return f"The 95 % interval (Wilson) of top-1 is {' and '.join(found)}." if found else ""


def _change(report: Report) -> str:
    change = report.top1_change or report.knn_change
    if change is None:
        return ""
    return f"Image by image, top-1 changed by {paired_points(change)}: {by_chance(change)}."


def _time(report: Report) -> str:
    return "" if report.seconds is None else f"The run took {report.seconds:.1f} s."


def _unread(arch: Architecture) -> str:
    if not arch.skip_unread:
        return ""
    if arch.num_classes:
        return "The last block computes only the tokens that the classifier reads."
    return "It was made for its pooled feature alone: the last block computes no patch tokens."


def _transformers(classifies: bool) -> str:
    """How transformers loads the folder; the code in it wraps vit.py, which has to be trusted."""
    auto = "AutoModelForImageClassification" if classifies else "AutoModel"
    use = (
        "print(model.config.id2label[model(**inputs).logits.argmax().item()])"
        if classifies
        else "features = model(**inputs).pooler_output  # tokens: last_hidden_state"
    )
    return (
        "## Use with transformers\n\n```python\n"
        "from PIL import Image\n"
        f"from transformers import AutoImageProcessor, {auto}\n"
        'folder = "."  # or the name of the repository on the hub\n'
        f"model = {auto}.from_pretrained(folder, trust_remote_code=True)\n"
        "processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)\n"
        'inputs = processor(Image.open("photo.jpg"), return_tensors="pt")\n'
        f"{use}\n```\n\n"
        "The code that is trusted lies in this folder: `vit.py`, and three files that wrap it.\n"
    )


def _merging(arch: Architecture) -> str:
    if not arch.merges:
        return ""
    merging = [(index, block.merge) for index, block in enumerate(arch.blocks) if block.merge]
    counts = from_to(count for _, count in merging)
    patches = arch.grid[0] * arch.grid[1]
    left = patches - sum(count for _, count in merging)
    return (
        f"Similar patch tokens merge (token merging, Bolya et al. 2023): {counts} behind the attention of "
        f"{_blocks([index for index, _ in merging])}, so that of {patches} patch tokens {left} are left."
    )


def _absent(arch: Architecture) -> str:
    parts = [
        ("no attention", [i for i, block in enumerate(arch.blocks) if not block.heads and block.mlp]),
        ("no MLP", [i for i, block in enumerate(arch.blocks) if block.heads and not block.mlp]),
        ("neither", [i for i, block in enumerate(arch.blocks) if not block.heads and not block.mlp]),
    ]
    said = [
        f"{_blocks(found)} {'has' if len(found) == 1 else 'have'} {what}" for what, found in parts if found
    ]
    if not said:
        return ""
    text = "; ".join(said).replace("neither", "neither attention nor MLP")
    return f"{text[0].upper()}{text[1:]}."


def _blocks(indices: Sequence[int]) -> str:
    """Blocks in words, counted from 0: "block 3", "blocks 0 to 10", "blocks 2, 5 and 7"."""
    first, last = indices[0], indices[-1]
    if first == last:
        return f"block {first}"
    if list(indices) == list(range(first, last + 1)) and last > first + 1:
        return f"blocks {first} to {last}"
    return f"blocks {', '.join(map(str, indices[:-1]))} and {last}"


def _usage(preprocess: Preprocess, classifies: bool) -> str:
    rows, columns = preprocess.image_size
    prints = "prints the five most likely classes" if classifies else "prints what its features are"
    features = (
        ""
        if classifies
        else "`model(images)` gives the pooled feature of each image, `model.forward_features(images)` its "
        "tokens behind the last norm, those of the patches last; patches that have merged share a token.\n\n"
    )
    return (
        "## Use\n\nIn this folder, with only torch and safetensors installed:\n\n"
        f"```python\n{LOADER}```\n\n{features}"
        f"The input has the shape `B {len(preprocess.mean)} {rows} {columns}` and is preprocessed as "
        f"`{PREPROCESS_FILE}` specifies; `{EXAMPLE_FILE}` does so for a photo and {prints}:\n\n"
        f"```\npip install torch safetensors pillow\npython {EXAMPLE_FILE} photo.jpg\n```\n"
    )


def _licence(name: str) -> str:
    return (
        "## Licence\n\n"
        f"The weights keep the licence of the model that they come from (`{name}`). "
        f"`{CODE_FILE}` and `{EXAMPLE_FILE}` are part of PruneScope, Apache-2.0.\n"
    )
