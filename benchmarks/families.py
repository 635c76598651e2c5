"""Which of timm's Vision Transformers can be read, and why the others cannot: the table in docs/models.md.

Every name of timm that is about a Vision Transformer is built without weights, and read. Those that are
accepted are then built again with random weights and few blocks, and the logits of both are compared.

    python -m benchmarks.families            # print the table
    python -m benchmarks.families --write    # put it into docs/models.md
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import defaultdict
from pathlib import Path

import timm
import torch

from analysis.models.convert import TOLERANCE, UnsupportedModelError, architecture_of, from_timm
from analysis.models.timm_source import fill_buffers

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
    return [name for name in timm.list_models() if _NAMES.search(name)]


def refusal(name: str) -> str | None:
    """Why a model cannot be read; None if it can."""
    with torch.device("meta"):
        model = timm.create_model(name)
    try:
        architecture_of(model)
    except UnsupportedModelError as error:
        return str(error).removeprefix(f"{name} is not supported: ").rpartition("; a plain")[0]
    return None


def features(name: str) -> str:
    """What a model has that a plain ViT has not."""
    with torch.device("meta"):
        arch = architecture_of(timm.create_model(name))
    found = [words for field, words in _FEATURES.items() if getattr(arch, field)]
    found += [] if arch.final_norm else ["no final norm"]
    found += ["attention pooling"] if arch.pool == "attention" else []
    return ", ".join(found) or "plain"


def difference(name: str) -> float:
    """The largest difference of any two logits with random weights, as a share of the largest logit."""
    with torch.device("meta"):
        model = timm.create_model(name, depth=BLOCKS)
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
    parser.add_argument("--logits", action="store_true", help="compare logits of all that are accepted")
    options = parser.parse_args()
    refused: dict[str, str] = {}
    accepted: dict[str, str] = {}
    for name in names():
        reason = refusal(name)
        if reason is None:
            accepted[name] = features(name)
        else:
            refused[name] = reason
    text = table(refused, accepted)
    if options.logits:
        worst = 0.0
        for name in accepted:
            apart = difference(name)
            worst = max(worst, apart)
            print(f"{name} {apart:.1e}", file=sys.stderr)
        text += (
            f"\n\nWith random weights and {BLOCKS} block the logits of those accepted differ from timm's "
            f"by at most {worst:.0e} of the largest logit; more than {TOLERANCE:g} would be refused."
        )
    if options.write:
        before, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")
    else:
        print(text)


if __name__ == "__main__":
    main()
