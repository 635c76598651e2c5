from __future__ import annotations

import random

import pytest

from analysis.measure.pareto import front


def twin(points: list[tuple[float, float]]) -> set[int]:
    """By the definition: compare each point with every other."""
    found = set()
    for i, (cost, value) in enumerate(points):
        beaten = False
        for other, worth in points:
            if other <= cost and worth >= value and (other < cost or worth > value):
                beaten = True
        if not beaten:
            found.add(i)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition(seed: int) -> None:
    draw = random.Random(seed)
    points = [(float(draw.randrange(8)), float(draw.randrange(8))) for _ in range(draw.randrange(1, 30))]
    found = front(points)
    assert set(found) == twin(points) and len(set(found)) == len(found)
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_few_points() -> None:
    assert front([]) == ()
    assert front([(3.0, 0.0)]) == (0,)
    assert front([(2.0, 0.9), (1.0, 0.5), (3.0, 0.9), (1.0, 0.5)]) == (1, 3, 0)
