"""Whether two criteria put heads in the same order: Spearman's rank correlation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def spearman(columns: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Spearman's rho of every pair of columns (equal values share their mean rank), from -1 to 1.

    It is NaN for a column whose values are all equal: that says no order.

    Raises:
        ValueError: columns of different lengths, or fewer than two rows.
    """
    import pandas as pd  # here, as the app's first page must not wait for it

    lengths = {len(values) for values in columns.values()}
    if len(lengths) != 1 or min(lengths) < 2:
        found = ", ".join(map(str, sorted(lengths))) or "none"
        raise ValueError(f"ranks of at least 2 heads in columns of one length are compared, got {found}")
    found = pd.DataFrame(dict(columns)).corr(method="spearman")
    return {name: {other: float(found.loc[name, other]) for other in columns} for name in columns}
