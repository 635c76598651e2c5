"""The Pareto front of cost and value."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Indices of the points (cost, value) on the Pareto front, cheapest first.

    A point is on the front if no other point dominates it, that is, has at most its cost and at least its
    value and is strictly better in one of them. Equal points are all on the front.
    """
    on_front: list[int] = []
    best = -float("inf")  # highest value at a lower cost
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    for index in order:
        if points[index][1] > best:
            best = points[index][1]
            on_front.append(index)
        elif on_front and points[index] == points[on_front[-1]]:
            on_front.append(index)
    return tuple(on_front)
