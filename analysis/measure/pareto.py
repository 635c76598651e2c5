"""What cannot be had better for less."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the points (cost, value) on the Pareto front, cheapest first.

    On the front is what no other point beats: one that costs no more and is worth no less, and is
    better in one of the two. Of equal points all are on it.
    """
    found: list[int] = []
    best = -float("inf")  # value of what costs less
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            found.append(index)
        elif found and points[index] == points[found[-1]]:
            found.append(index)
    return tuple(found)
