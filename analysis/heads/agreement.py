"""Whether two criteria rank the heads alike: Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def spearman(columns: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Spearman's rho of every pair of columns (equal values share their mean rank), from -1 to 1.

    It is NaN for a column whose values are all equal, which has no order.

    Raises:
        ValueError: columns of different lengths, or fewer than two rows.
    """
    import pandas as pd  # imported late: slow, and the app's first page does not need it

    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or min(lengths) < 2:
        got = ", ".join(map(str, sorted(lengths))) or "none"
        raise ValueError(f"columns to rank must have the same length, at least 2 heads, got {got}")
    rho = pd.DataFrame(dict(columns)).corr(method="spearman")
    return {name: {other: float(rho.loc[name, other]) for other in columns} for name in columns}
