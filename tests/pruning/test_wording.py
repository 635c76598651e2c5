"""Figures in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import pytest

from analysis.measure.paired import change_of_counts
from pruning import wording


def test_a_change_that_rounds_to_none_is_none() -> None:
    told = [wording.real_change(1000.0, after) for after in (1000.0, 1000.4, 999.6, 999.0, 1100.0)]
    assert told == [None, None, None, f"-0.1{wording.NBSP}%", f"+10.0{wording.NBSP}%"]


def test_a_paired_change() -> None:
    found = change_of_counts(40, 12, 650)
    assert wording.paired_points(found) == "-4.3 points (-6.6 to -2.2), p = 0.00010"
    assert wording.by_chance(found) == "chance does not explain the change"
    equal = change_of_counts(0, 0, 650)
    assert wording.paired_points(equal) == "+0.0 points (-0.6 to +0.6), p = 1.00"
    assert wording.by_chance(equal) == "no image was lost or gained"
    assert wording.by_chance(change_of_counts(3, 4, 650)) == "chance could explain the change"


@pytest.mark.parametrize(
    ("lost", "gained", "words"),
    [
        (
            4,
            0,
            "4 more of 325 test images are wrong (-1.2 points, 95 % interval -3.1 to -0.05); chance does not",
        ),
        (
            8,
            5,
            "3 more of 325 test images are wrong (-0.9 points, 95 % interval -3.5 to +1.4); chance alone",
        ),
        (
            40,
            12,
            "28 more of 325 test images are wrong (-8.6 points, 95 % interval -13.1 to -4.4); chance does",
        ),
        (0, 1, "1 more of 325 test images is right (+0.3 points, 95 % interval -0.9 to +1.7); chance"),
        (
            0,
            9,
            "9 more of 325 test images are right (+2.8 points, 95 % interval +1.5 to +5.2); chance does not",
        ),
        (4, 4, "As many of 325 test images are right as before: 4 lost, as many gained (+0.0 points"),
        (0, 0, "Of 325 test images, exactly the same are right as before."),
    ],
)
def test_an_outcome_is_one_line(lost: int, gained: int, words: str) -> None:
    found = wording.outcome(change_of_counts(lost, gained, 325))
    assert found.startswith(words) and found.endswith(".")


@pytest.mark.parametrize("images", [1, 7, 40, 325, 10_000])
def test_interval_p_and_words_agree(images: int) -> None:
    """All counts that chance may just explain, or just not: what is printed tells the same three times."""
    for lost, gained in counts_beside_the_border(images):
        found = change_of_counts(lost, gained, images)
        told = re.fullmatch(r"\S+ points \((\S+) to (\S+)\), p [=<] (\S+)", wording.paired_points(found))
        assert told
        low, high, p = told.groups()
        real = low[0] == high[0]  # both ends have one sign
        assert real == (float(p) < 0.05) == found.beyond_chance, (lost, gained, images)
        line = wording.outcome(found)
        assert f"{low} to {high}" in line
        assert ("chance does not explain" in line) == real == (wording.by_chance(found)[:11] == "chance does")


def counts_beside_the_border(images: int) -> Iterator[tuple[int, int]]:
    """Lost and gained images whose difference is within two of 1.96 of its standard errors."""
    for total in {*range(1, min(images, 60) + 1), images // 2, images} - {0}:
        border = round(1.96 * math.sqrt(total))
        for apart in range(max(border - 3, 1), min(border + 3, total) + 1):
            if (total - apart) % 2 == 0:
                less = (total - apart) // 2
                yield from ((less, total - less), (total - less, less))


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (1.0, "p = 1.00"),
        (0.5, "p = 0.50"),
        (0.0525, "p = 0.052"),
        (0.0501, "p = 0.0501"),
        (0.0499, "p = 0.0499"),
        (0.0999, "p = 0.10"),
        (0.00996, "p = 0.010"),
        (1.28e-4, "p = 0.00013"),
        (2e-6, "p = 0.0000020"),
        (9e-7, "p < 0.000001"),
        (0.0, "p < 0.000001"),
    ],
)
def test_p_values(p: float, words: str) -> None:
    assert wording.p_value(p) == words
