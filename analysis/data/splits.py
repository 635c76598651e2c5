"""Image sets that come divided: a folder or zip that holds train/ and val/ with the same class folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LEARN = ("train", "training")
TEST = ("val", "valid", "validation", "test", "testing")  # the first that is there is tested on


def is_part(folder: str) -> bool:
    """Whether a folder is called like a part of a set."""
    return folder.casefold() in (*LEARN, *TEST)


def is_divided(names: Iterable[str]) -> bool:
    """Whether all paths begin with folders that are called like parts, two at least."""
    tops = {name.partition("/")[0] for name in names}
    return len(tops) > 1 and all(map(is_part, tops))


@dataclass(frozen=True)
class Parts:
    """The folder to learn from and the one to test on, as they are called there."""

    learn: str
    test: str


def find_parts(names: Sequence[str], labels: Sequence[str], where: str) -> Parts | None:
    """The parts into which images are divided already; None if their folders are classes.

    `names` are the paths of the images below the folder that all share, `labels` the model's class names:
    folders that are classes of the model are no parts. Every class that is tested must be learned [ours].

    Raises:
        ValueError: the folders are called like parts, but do not hold the same class folders.
    """
    parts = {name.partition("/")[0] for name in names}
    words = {part.casefold(): part for part in parts}
    known = {label.casefold() for label in labels}
    if len(parts) < 2 or not words.keys() <= {*LEARN, *TEST} or words.keys() <= known:
        return None
    learn, test = (next((words[word] for word in kind if word in words), None) for kind in (LEARN, TEST))
    if learn is None or test is None:
        held = " and ".join(sorted(parts))
        raise ValueError(
            f"{where} holds {held}, but no part to {'test on' if learn else 'learn from'}: {_ASK}"
        )
    held_by = {part: _classes(names, part) for part in (learn, test)}
    if not held_by[test] or not held_by[test] <= held_by[learn]:
        raise ValueError(f"{where} holds {learn} and {test}, but not with the same class folders: {_ASK}")
    return Parts(learn, test)


_ASK = "images that are divided already need class folders in train and in val, as train/cat/1.jpg"


def _classes(names: Sequence[str], part: str) -> set[str]:
    """The class folders of a part; images that lie directly in it have none."""
    split = (name.split("/") for name in names if name.startswith(f"{part}/"))
    return {folders[1] for folders in split if len(folders) > 2}
