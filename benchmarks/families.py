"""Which of timm's Vision Transformers can be read, and why the others cannot: the table in docs/models.md.

Every name of timm that is about a Vision Transformer is built without weights, and read. What is accepted is
then built again with random weights and few blocks, and the logits of both are compared.

    python -m benchmarks.families            # print the table
    python -m benchmarks.families --logits --write    # put it into docs/models.md, with the comparison
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from analysis.models.convert import TOLERANCE, architecture_of, from_timm
from analysis.models.timm_source import fill_buffers
from analysis.vit import Architecture

DOCS = Path(__file__).parents[1] / "docs" / "models.md"
BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
_NAMES = re.compile(
    r"vit|deit|beit|eva|aim|swin|hiera|xcit|cait|pit|tnt|mvit|twins|vitamin|volo|levit|sam2|t2t|siglip"
)
_FEATURES = {
    "rope": "rotary positions",
    "position_bias": "position bias",
    "qk_norm": "qk-norm",
    "gated": "gated MLP",
    "attn_norm": "norm before proj",
    "mlp_norm": "norm before fc2",
    "patch_norm": "norm of patches",
}
BLOCKS = 1  # of the models whose logits are compared


def names() -> list[str]:
    """timm's names of Vision Transformers and what is related to them, without tags."""
    import timm

    return [name for name in timm.list_models() if _NAMES.search(name)]


def skeleton(name: str, **options: object) -> Any:
    """A model of timm without weights."""
    import timm

    with torch.device("meta"):
        return timm.create_model(name, **options)


def read(name: str) -> Architecture | str:
    """The architecture of a model, or why it cannot be read."""
    try:
        return architecture_of(skeleton(name))
    except ValueError as error:  # its own kind, or a size beyond the bounds of an architecture
        return re.sub(r"^\S+ is not supported: ", "", str(error)).partition("; a plain")[0]


def features(arch: Architecture) -> str:
    """What a model has that a plain ViT has not."""
    found = [words for field, words in _FEATURES.items() if getattr(arch, field)]
    found += [] if arch.final_norm else ["no final norm"]
    found += ["attention pooling"] if arch.pool == "attention" else []
    return ", ".join(found) or "plain"


def difference(name: str) -> float:
    """The largest difference of any two logits with random weights, as a share of the largest logit."""
    try:
        model = skeleton(name, depth=BLOCKS)
    except AssertionError:  # with a number of key and value heads for each of all its blocks
        model = skeleton(name, depth=BLOCKS, num_kv_heads=1)
    model = model.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim == 1 else 0.03)
            parameter.copy_(noise + (parameter.ndim == 1))
    fill_buffers(model, everywhere=True)
    ours = from_timm(model)
    images = torch.randn(1, 3, *ours.arch.image_size, generator=generator)
    with torch.inference_mode():
        expected, got = model(images), ours(images)
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(1))


def table(refused: dict[str, str], accepted: dict[str, str]) -> str:
    """Both as Markdown: how many names, by what the models have, and by why they are refused."""
    import timm

    lines = [
        f"Of {len(refused) + len(accepted)} names {len(accepted)} can be read (timm {timm.__version__}; "
        "names without tags):",
        "",
        "| accepted, with | names |",
        "|---|---|",
        *_rows(accepted),
        "",
        "| refused, because | names |",
        "|---|---|",
        *_rows(refused),
    ]
    return "\n".join(lines)


def _rows(found: dict[str, str]) -> list[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name, words in found.items():
        groups[re.sub(r" \(blocks\.\d+\)$", "", words)].append(name)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [
        f"| {words} | {len(group)}: {', '.join(f'`{one}`' for one in group)} |" for words, group in ordered
    ]


def main() -> None:
    """Print the table, or write it."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/models.md")
    parser.add_argument("--logits", action="store_true", help="compare the logits of all that are accepted")
    options = parser.parse_args()
    found = {name: read(name) for name in names()}
    archs = {name: arch for name, arch in found.items() if isinstance(arch, Architecture)}
    refused = {name: reason for name, reason in found.items() if isinstance(reason, str)}
    text = table(refused, {name: features(arch) for name, arch in archs.items()})
    if options.logits:
        apart = {}
        for name in archs:
            apart[name] = difference(name)
            print(f"{name} {apart[name]:.1e}", file=sys.stderr, flush=True)
        text += (
            f"\n\nEach of the {len(apart)} was built with random weights and {BLOCKS} block: its logits "
            f"differ from timm's by at most {max(apart.values()):.0e} of the largest. Every model is "
            f"compared when it is loaded, too, and refused beyond {TOLERANCE:g}."
        )
    if options.write:
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        print(text)


if __name__ == "__main__":
    main()
