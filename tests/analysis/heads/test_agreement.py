from __future__ import annotations

import math

import pytest

from analysis.heads.agreement import spearman


def twin(first: list[float], second: list[float]) -> float:
    """Pearson's correlation of ranks; equal values share the mean of their places."""

    def ranks(values: list[float]) -> list[float]:
        places = sorted(values)
        found = []
        for value in values:
            same = [place for place, other in enumerate(places) if other == value]
            found.append(sum(same) / len(same))
        return found

    a, b = ranks(first), ranks(second)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return both / math.sqrt(sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b))


COLUMNS = {
    "up": [1.0, 2.0, 3.0, 4.0, 5.0],
    "down": [9.0, 7.0, 5.0, 3.0, -100.0],
    "ties": [1.0, 1.0, 2.0, 2.0, 2.0],
    "mixed": [0.3, -2.0, 8.0, 0.1, 0.3],
}


def test_equals_the_twin_with_ties_too() -> None:
    found = spearman(COLUMNS)
    for one in COLUMNS:
        for other in COLUMNS:
            assert found[one][other] == pytest.approx(twin(COLUMNS[one], COLUMNS[other]))
    assert found["up"]["down"] == pytest.approx(-1)


def test_what_gives_no_order_agrees_with_nothing() -> None:
    found = spearman({"flat": [2.0, 2.0, 2.0], "up": [1.0, 2.0, 3.0]})
    assert math.isnan(found["flat"]["up"]) and found["up"]["up"] == pytest.approx(1)


@pytest.mark.parametrize("columns", [{}, {"a": [1.0]}, {"a": [1.0, 2.0], "b": [1.0]}])
def test_what_cannot_be_ranked_is_refused(columns: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="must have the same length, at least 2 heads"):
        spearman(columns)
