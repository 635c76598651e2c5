"""Match class folders to the model's logits by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from analysis.models import Preprocess


class Matched(NamedTuple):
    """The logit index of each class folder in use, a name for every logit, and what was assumed."""

    index_of: dict[str, int]
    classes: tuple[str, ...]
    assumed: str | None = None


def match_folders(
    where: str, used: Sequence[str], folders: Sequence[str], preprocess: Preprocess, num_classes: int
) -> Matched:
    """Which logits the class folders in use stand for.

    The first rule that applies is used: WordNet ids, for a model with 1000 classes; the names in
    `preprocess.labels`, ignoring case and treating spaces and underscores alike; class numbers; and,
    for a model whose classes have no names, the order given. `folders` also include empty folders,
    which matter for that order only. `num_classes` 0 means no head: any folders are accepted.

    Raises:
        ValueError: the folders are not classes of the model.
    """
    if num_classes == 1000 and all(re.fullmatch(r"n\d{8}", folder) for folder in used):
        return Matched(*_by_wordnet(where, used, preprocess))
    labels = preprocess.labels if len(preprocess.labels) == num_classes else ()
    logits = tuple(labels) or tuple(f"class {i}" for i in range(num_classes))
    named = _by_name(used, labels)
    if len(named) == len(used):
        return Matched(named, logits)
    if not named:
        if all(folder.isdecimal() and len(folder) < 9 and int(folder) < num_classes for folder in used):
            return Matched({folder: int(folder) for folder in used}, logits)
        for known in (used, folders):
            if not num_classes or (len(known) == num_classes and _are_anonymous(labels)):
                order = {folder: i for i, folder in enumerate(known)}
                return Matched(order, tuple(known), _by_order(where, known) if num_classes else None)
    raise ValueError(_mismatch(where, used, [f for f in used if f not in named], labels, num_classes))


def _by_order(where: str, known: Sequence[str]) -> str:
    return (
        f"the model does not name its classes, so the class folders of {where} are taken for them in this "
        f"order: {_some(known, 10)}"
    )


def _by_wordnet(
    where: str, used: Sequence[str], preprocess: Preprocess
) -> tuple[dict[str, int], tuple[str, ...]]:
    from timm.data import ImageNetInfo  # imported late: timm takes half a second to import

    info = ImageNetInfo()
    index_of = {name: i for i, name in enumerate(info.label_names())}
    strays = [folder for folder in used if folder not in index_of]
    if strays:
        raise ValueError(f"{where}: {_some(strays)} are not among the 1000 WordNet ids of ImageNet-1k")
    labels = preprocess.labels if len(preprocess.labels) == 1000 else tuple(info.label_descriptions())
    return {folder: index_of[folder] for folder in used}, labels


def _by_name(used: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    def plain(name: str) -> str:
        return re.sub(r"[\s_]+", " ", name).strip().casefold()

    index_of = {plain(label): i for i, label in enumerate(labels)}
    counts = Counter(plain(label) for label in labels)  # ImageNet has two classes "crane": ambiguous
    return {folder: index_of[plain(folder)] for folder in used if counts[plain(folder)] == 1}


def _are_anonymous(labels: Sequence[str]) -> bool:
    """Whether the labels are mere numbers, as in `LABEL_3`."""
    return all(re.fullmatch(r"(class|label)?[\s_]*\d+", label, re.IGNORECASE) for label in labels)


def _mismatch(
    where: str, used: Sequence[str], strays: Sequence[str], labels: Sequence[str], num_classes: int
) -> str:
    if len(strays) < len(used):
        problem = f"{where} has class folders that are not classes of the model ({_some(strays)})"
    else:
        problem = f"{where} has {len(used)} class folders ({_some(used)}), none of them a class of the model"
    expected = f"{num_classes} classes" + (f" ({_some(labels)})" if labels else "")
    wordnet = ", WordNet ids such as n01440764" if num_classes == 1000 else ""
    return (
        f"{problem}, which has {expected}: folders must be named after its classes"
        f"{wordnet} or with numbers from 0 to {num_classes - 1}"
    )


def _some(names: Sequence[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
