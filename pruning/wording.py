"""Format numbers for people: units, separators, intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from analysis.measure import CLASSES, KNN, NEIGHBOURS, Evaluation, Likeness, PairedChange, Timing

NBSP = "\u00a0"  # keeps a number and its unit on one line

STRUCTURE_NAMES = {
    "qk": "query-key pairs",
    "v": "value channels",
    "mlp": "MLP neurons",
    "heads": "heads",
    "embed": "residual channels",
}


def share_of(structure: str, fractions: float | Sequence[float], form: str = ".0f") -> str:
    """Fractions of a structure in words, one or one per block; empty if all are 0.

    "50 % of query-key pairs", or "10 to 40 % of heads" where blocks differ; `form` formats the percentages.
    """
    values = fractions if isinstance(fractions, Sequence) else (fractions,)
    low, high = 100 * min(values), 100 * max(values)
    share = f"{low:{form}}" if low == high else f"{low:{form}} to {high:{form}}"
    return f"{share} % of {STRUCTURE_NAMES[structure]}" if high else ""


def base_name(name: str) -> str:
    """The name of a model or data set without the folders it is in on this machine.

    For cifar10:FOLDER the whole folder is left out; hub names are returned unchanged.
    """
    if name.startswith("hf-hub:"):
        return name
    return name.partition(":")[0] if name.startswith("cifar10:") else Path(name).name or name


MOST_PRINTED = 1000  # characters of one line on a terminal or in a log


def printable(text: str) -> str:
    """Text on one line that a terminal may show: it is cut, and all but printable characters are escapes.

    Names of files, classes and models come from others. A newline in one would forge a line of output, and
    a control character could do worse to a terminal.
    """
    shown = "".join(one if one.isprintable() or one == NBSP else _escaped(one) for one in text)
    if len(shown) <= MOST_PRINTED:
        return shown
    end = MOST_PRINTED // 3  # what to do often stands at the end of a sentence
    return f"{shown[: MOST_PRINTED - end - 3]} … {shown[-end:]}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def duration(seconds: float) -> str:
    """A duration in the largest suitable unit."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def duration_between(low: float, high: float) -> str:
    """Two durations in the unit of the longer one, which is at least a minute."""
    unit, size = ("h", 3600) if high >= 7200 else ("min", 60)
    first, last = max(1, round(low / size)), max(1, round(high / size))
    return f"{last} {unit}" if first == last else f"{first} to {last} {unit}"


def count(number: int) -> str:
    """A number with thousands separators."""
    return f"{number:,}"


def millions(number: int) -> str:
    """Parameters in millions."""
    return f"{number / 1e6:,.2f}{NBSP}M"


def gmacs(number: float) -> str:
    """Multiply-accumulates of one image, in 10^9."""
    return f"{number:,.3f}{NBSP}GMACs"


def gmacs_of(macs: int) -> str:
    """MACs of one image, in 10^9."""
    return gmacs(macs / 1e9)


def megabytes(number: int) -> str:
    """Bytes in units of 10^6."""
    return f"{number / 1e6:,.1f}{NBSP}MB"


def percent(share: float, digits: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * share:.{digits}f}{NBSP}%"


def change(before: float, after: float) -> str:
    """Relative change, signed; with a hyphen, as `st.metric` does not take a minus sign as negative."""
    return f"{100 * (after - before) / before:+.1f}{NBSP}%"


def real_change(before: float, after: float) -> str | None:
    """Relative change; None where it rounds to none."""
    said = change(before, after)
    return None if said.strip("+-").startswith("0.0") else said


def points(before: float, after: float) -> str:
    """Difference of two fractions in percentage points."""
    return f"{100 * (after - before):+.1f} points"


def paired_points(found: PairedChange) -> str:
    """A paired change with its 95 % interval and p-value: "-4.3 points (-6.6 to -2.2), p = 0.00010"."""
    change, low, high = signed_points(found)
    return f"{change} points ({low} to {high}), {p_value(found.p)}"


def signed_points(found: PairedChange) -> tuple[str, str, str]:
    """A paired change and the ends of its interval in points; an end that is not 0 never looks like 0."""
    low, high = (f"{100 * end:+.{_digits(100 * end)}f}" for end in (found.low, found.high))
    return f"{100 * found.change:+.1f}", low, high


def _digits(number: float) -> int:
    """Decimals that show a first digit of this number: one, or more where it is below 0.05."""
    return max(1, -math.floor(math.log10(abs(number)))) if 0 < abs(number) < 0.05 else 1


def p_value(p: float) -> str:
    """A p-value with two significant digits, more beside 0.05; below one in a million no more is said."""
    if p < 1e-6:
        return "p < 0.000001"
    rounded = float(f"{p:.1e}")
    if rounded == 0.05 != p:  # never on the other side of 0.05 than it is
        return f"p = {next(text for digits in range(4, 18) if float(text := f'{p:.{digits}f}') != 0.05)}"
    digits = max(2, 1 - math.floor(math.log10(rounded)))
    return f"p = {rounded:.{digits}f}"


def by_chance(found: PairedChange) -> str:
    """Whether chance alone could explain a paired change, by its 95 % interval, in words."""
    if not found.lost + found.gained:
        return "no image was lost or gained"
    return "chance does not explain the change" if found.beyond_chance else "chance could explain the change"


# What top-1 is called, by what it is about.
ACCURACY = {CLASSES: "Top-1", KNN: "k-NN top-1", NEIGHBOURS: "Same nearest neighbour"}


def accuracy_name(result: Evaluation) -> str:
    """What the top-1 of an evaluation is called: that of a classifier, or of features."""
    return ACCURACY[result.measure]


def accuracy_within(result: Evaluation) -> str:
    """The same inside a sentence: "top-1", "k-NN top-1"."""
    name = accuracy_name(result)
    return f"{name[0].lower()}{name[1:]}"


def accuracy_meaning(result: Evaluation) -> str:
    """One sentence on what that is; empty for a classifier."""
    return {
        CLASSES: "",
        KNN: "The model has no classifier: the nearest images of a gallery, by its pooled features, vote for "
        "the class of an image.",
        NEIGHBOURS: "The model has no classifier, and the images have no classes: it is counted for how many "
        "images the nearest other image, by the pooled features, is the dense model's.",
    }[result.measure]


def cosine(found: Likeness) -> str:
    """A mean cosine with its 95 % interval and the 5th percentile: "0.981 (0.979 to 0.983), 0.93"."""
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f}), {found.p5:.2f}"


def likeness(result: Evaluation) -> dict[str, str]:
    """How like the dense model's the features are, by name; empty where that was not measured."""
    found = result.fidelity
    if found is None:
        return {}
    tokens = {} if found.tokens is None else {"Cosine of patch tokens, 5th percentile": cosine(found.tokens)}
    pooled = {"Cosine of pooled features, 5th percentile": cosine(found.pooled)}
    return pooled | tokens | {"CKA of pooled features": f"{found.cka:.3f}"}


def likeness_sentence(result: Evaluation) -> str:
    """The same in one sentence; empty where it was not measured."""
    found = result.fidelity
    if found is None:
        return ""
    tokens = "" if found.tokens is None else f", {found.tokens.mean:.3f} of patch tokens"
    return f"Cosine with the dense model's features: {found.pooled.mean:.3f} of pooled ones{tokens}."


def outcome(found: PairedChange, measure: str = CLASSES) -> str:
    """What a change of top-1 comes to in images, with its interval, and whether chance explains it.

    "3 more of 325 test images are wrong (-0.9 points, -3.5 to +1.4); chance alone could explain that."
    """
    if measure == NEIGHBOURS:
        other = f"{count(found.lost)} of {count(found.images)} test images"
        return f"{other} have another nearest neighbour by the smaller model's features."
    if measure == KNN:
        said = _outcome(found)
        return f"By the votes of neighbours: {said[0].lower()}{said[1:]}"
    return _outcome(found)


def _outcome(found: PairedChange) -> str:
    net, tested = found.lost - found.gained, f"{count(found.images)} test images"
    if not found.lost + found.gained:
        return f"Of {tested}, exactly the same are right as before."
    change, low, high = signed_points(found)
    told = f"({change} points, 95 % interval {low} to {high})"
    if net == 0:
        return f"As many of {tested} are right as before: {count(found.lost)} lost, as many gained {told}."
    more = f"{count(abs(net))} more of {tested} {'is' if abs(net) == 1 else 'are'}"
    verdict = "chance does not explain that" if found.beyond_chance else "chance alone could explain that"
    return f"{more} {'wrong' if net > 0 else 'right'} {told}; {verdict}."


def interval(result: Evaluation) -> str:
    """The 95 % interval of top-1 and the number of images it is based on."""
    low, high = 100 * result.top1_low, 100 * result.top1_high
    return f"{low:.1f} to {high:.1f}{NBSP}%, {count(result.images)} images"


def milliseconds(value: float) -> str:
    """A latency with two decimals below 10 ms and one above."""
    return f"{value:,.2f}{NBSP}ms" if value < 10 else f"{value:,.1f}{NBSP}ms"


def with_bounds(ratio: float, low: float | None, high: float | None, unit: str = "") -> str:
    """A ratio with its 95 % interval, a dash where that is not known: "1.24× (1.18 to 1.31)"."""
    known = "–" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    return f"{ratio:.2f}{unit} ({known})"


def from_to(numbers: Iterable[int]) -> str:
    """The range of some numbers: "30", or "30 to 120" where they differ."""
    found = sorted(set(numbers))
    return " to ".join(map(str, found[:1] + found[1:][-1:]))


def speedup(timing: Timing) -> str:
    """A speed-up with its interval and the verdict."""
    ratio = with_bounds(timing.speedup, timing.speedup_low, timing.speedup_high, "×")
    return f"{ratio}, {timing.verdict}"
