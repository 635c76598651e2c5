"""Time and peak memory of spectral pruning of a whole network.

    python benchmarks/spectral_cost.py --write

Each figure is measured in a fresh process, because peak memory never falls. Weights and images are random.
Exits with code 1 if time or memory exceeds the promised limit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from results import parser, report, table
from scoring_cost import BATCH, SPECTRAL, Spent, spend_apart


@dataclass(frozen=True)
class Limit:
    """The limit that is promised on two cores: minutes of wall time and GB of peak memory."""

    minutes: float
    gigabytes: float

    def kept(self, spent: Spent) -> bool:
        return spent.wall < 60 * self.minutes and spent.peak < 1000 * self.gigabytes


LIMITS = {"tiny": Limit(2, 3), "base": Limit(15, 8)}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--models", nargs="+", choices=LIMITS, default=list(LIMITS))
    arguments.add_argument("--images", type=int, default=256)
    args = arguments.parse_args()
    rows, broken = [], []
    for name in args.models:
        limit, forward, spent = (
            LIMITS[name],
            *(spend_apart(task, name, args.images, args.threads) for task in ("forward", "spectral")),
        )
        rows.append(
            [
                f"DeiT-{name.title()}",
                *(f"{took.wall:.0f}, {took.processor:.0f}" for took in (forward, spent)),
                f"{limit.minutes * 60:.0f}",
                f"{spent.peak:,.0f}",
                f"{limit.gigabytes * 1000:,.0f}",
            ]
        )
        if not limit.kept(spent):
            broken.append(f"DeiT-{name.title()} exceeds its limit")
    head = [
        "Model",
        "Forward pass of the same images: s, processor s",
        "Spectral: s, processor s",
        "Limit, s",
        "Peak, MB",
        "Limit, MB",
    ]
    body = (
        f"{SPECTRAL.qk:.1%} of the query-key pairs, {SPECTRAL.v:.0%} of the value channels and "
        f"{SPECTRAL.mlp:.0%} of the neurons are removed from every block; {args.images} calibration images "
        f"in batches of {BATCH}, random weights and images, {args.threads} threads. Each measurement runs in "
        "a fresh process, after one image to warm up. The peak is that of the whole process, including "
        "imports and weights. Reading images from disk is not included."
    ).replace("%", " %")
    report("Cost of spectral pruning", f"{body}\n\n{table(head, rows)}", args.write)
    if broken:
        sys.exit("; ".join(broken))


if __name__ == "__main__":
    main()
