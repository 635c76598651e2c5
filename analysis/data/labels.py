"""Match class folders to the model's logits by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from analysis.models import Preprocess

SLASH = "\u2215"  # stands for / in class names that are used as names of folders


class Matched(NamedTuple):
    """The logit index of each class folder in use, and a name for every logit."""

    index_of: dict[str, int]
    classes: tuple[str, ...]


class UnnamedClassesError(ValueError):
    """Nothing says which logits the class folders stand for; `folders` are they, in their usual order."""

    def __init__(self, where: str, folders: Sequence[str]) -> None:
        super().__init__(
            f"the model does not name its classes, so nothing says which of them the class folders of "
            f"{where} are: name them in the order of its outputs (--classes-file FILE); usually that is the "
            f"order of the sorted folders (--classes-file sorted): {_some(sorted(folders), 10)}"
        )
        self.folders = tuple(sorted(folders))


def match_folders(
    where: str,
    used: Sequence[str],
    folders: Sequence[str],
    preprocess: Preprocess,
    num_classes: int,
    numbered: Sequence[str] = (),
) -> Matched:
    """Which logits the class folders in use stand for.

    The first rule that applies is used: WordNet ids, for a model with 1000 classes; the names in
    `preprocess.labels`, ignoring case and treating spaces, underscores and slashes alike; class numbers: the
    folders' names, or those that the data give to the names in `numbered`. Nothing is guessed from the order
    of folders. `folders` also include empty ones, which count among the classes that
    a user may have meant. `num_classes` 0 means no head: any folders are accepted.

    Raises:
        UnnamedClassesError: there are as many folders as classes, but the model does not name these.
        ValueError: the folders are not classes of the model.
    """
    if num_classes == 1000 and all(re.fullmatch(r"n\d{8}", folder) for folder in used):
        return _by_wordnet(where, used, preprocess)
    labels = preprocess.labels if len(preprocess.labels) == num_classes else ()
    logits = tuple(labels) or tuple(f"class {i}" for i in range(num_classes))
    named = _by_name(used, labels)
    if len(named) == len(used):
        return Matched(named, logits)
    if named and len(numbered) == num_classes and all(numbered[i] == name for name, i in named.items()):
        return Matched({name: i for i, name in enumerate(numbered)}, logits)  # but for names that stand twice
    if not named:
        if all(folder.isdecimal() and len(folder) < 9 and int(folder) < num_classes for folder in used):
            return Matched({folder: int(folder) for folder in used}, logits)
        if numbered and len(numbered) == num_classes and _are_anonymous(labels):
            return Matched({name: i for i, name in enumerate(numbered)}, tuple(numbered))
        if not num_classes:
            return Matched({folder: i for i, folder in enumerate(used)}, tuple(used))
        for known in (used, folders):
            if len(known) == num_classes and _are_anonymous(labels):
                raise UnnamedClassesError(where, known)
    raise ValueError(_mismatch(where, used, [f for f in used if f not in named], labels, num_classes))


def _by_wordnet(where: str, used: Sequence[str], preprocess: Preprocess) -> Matched:
    from timm.data import ImageNetInfo  # imported late: timm takes half a second to import

    info = ImageNetInfo()
    index_of = {name: i for i, name in enumerate(info.label_names())}
    strays = [folder for folder in used if folder not in index_of]
    if strays:
        raise ValueError(f"{where}: {_some(strays)} are not among the 1000 WordNet ids of ImageNet-1k")
    labels = preprocess.labels if len(preprocess.labels) == 1000 else tuple(info.label_descriptions())
    return Matched({folder: index_of[folder] for folder in used}, labels)


def _by_name(used: Sequence[str], labels: Sequence[str]) -> dict[str, int]:
    def plain(name: str) -> str:
        return re.sub(rf"[\s_/{SLASH}]+", " ", name).strip().casefold()

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
