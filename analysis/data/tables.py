"""Images whose classes stand in a table beside them: `file,label` in a CSV, or Hugging Face's metadata files.

The classes become folders that are made up, `cat/1.jpg`, and all else goes on as with class folders.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from analysis.data.images import EXTENSIONS
from analysis.data.labels import SLASH
from analysis.data.listing import FolderImages, Listed, Opener, is_hidden, visible_images
from analysis.data.splits import is_divided, is_part
from analysis.formats import in_file, parse

TABLES = (".csv", ".tsv")
METADATA = ("metadata.csv", "metadata.jsonl")  # of Hugging Face image folders
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "filepath", "image_path", "imageid")
LABEL_COLUMNS = ("label", "class", "class_name", "label_name", "category", "target", "wnid", "synset")
KAGGLE = "predictionstring"  # of ImageNet's solutions there: the class, and boxes
_SHOWN = 6  # columns in a message


@dataclass(frozen=True)
class _Table:
    """The files that a table names with their labels, and the folders that their paths may begin at."""

    name: str
    rows: tuple[tuple[str, str], ...]
    starts: tuple[str, ...]


def list_by_tables(
    path: Path, opener: Opener, entries: Mapping[str, str], images: Sequence[str], where: str
) -> Listed | None:
    """The images of a folder or zip by the tables in it; None if class folders are to say the classes.

    Metadata files count wherever they lie, if they have labels. Other tables count where images lie in no
    class folders.

    Raises:
        ValueError: a table that counts is damaged, or contradicts another.
    """
    top = _top(images)
    visible = [entry for entry in entries if not is_hidden(entry)]
    named = [entry for entry in visible if entry.rpartition("/")[2].lower() in METADATA]
    tables = _read_all(path, opener, entries, named, top)
    if not tables and all(_is_flat(image[len(top) :]) for image in images):
        others = [entry for entry in visible if entry.lower().endswith(TABLES) and entry not in named]
        tables = _read_all(path, opener, entries, [entry for entry in others if _is_beside(entry, top)], top)
    return _listed(path, opener, entries, images, tables, where) if tables else None


def list_by_table(file: Path, entries: Mapping[str, str]) -> Listed:
    """The images that the table `file` names, in its folder with these entries.

    Raises:
        ValueError: it has no labels, is damaged, or names no image that is there.
    """
    folder, where = file.parent, file.name
    images = visible_images([entry for entry in entries if not is_hidden(entry)], str(folder))
    content = FolderImages(folder, (file.name,), (file.name,)).content(0)
    table = _read(file.name, content, _top(images))
    if table is None:
        raise ValueError(
            f"{file.name} must have a column file and a column label (or names such as "
            f"{', '.join(FILE_COLUMNS[:2])} and {', '.join(LABEL_COLUMNS[:3])}), got {_columns(content)}"
        )
    return _listed(folder, FolderImages, entries, images, [table], where)


def _read_all(
    path: Path, opener: Opener, entries: Mapping[str, str], names: Sequence[str], top: str
) -> list[_Table]:
    """Those of these tables that have files and labels."""
    content = opener(path, tuple(names), tuple(entries[name] for name in names)).content
    found = [_read(name, content(index), top) for index, name in enumerate(names)]
    return [table for table in found if table is not None]


def _top(images: Iterable[str]) -> str:
    """The folder that all images lie in, directly or in others: `data/set/`."""
    common = os.path.commonpath({image.rpartition("/")[0] for image in images})
    return f"{common}/" if common else ""


def _is_flat(place: str) -> bool:
    """Whether what lies here lies in no class folder: beside all others, or directly in a part as train/."""
    folder = place.rpartition("/")[0]
    return not folder or is_part(folder)


def _is_beside(table: str, top: str) -> bool:
    """Whether a table lies where the images do, or in a folder above."""
    folder = table.rpartition("/")[0]
    return top.startswith(f"{folder}/" if folder else "") or (
        table.startswith(top) and _is_flat(table[len(top) :])
    )


# ---- one table


def _read(name: str, content: bytes, top: str) -> _Table | None:
    """A table from the bytes of its file; None if it has no column of files, or none of labels.

    Raises:
        ValueError: it is no text, or damaged.
    """
    text = _text(name, content)
    try:
        rows = _of_jsonl(text) if name.lower().endswith(".jsonl") else _of_csv(text)
        pairs = None if rows is None else tuple(rows)
    except csv.Error as error:
        raise ValueError(f"{name} is damaged ({error})") from error
    except ValueError as error:
        raise in_file(name, error) from error
    if pairs is None:
        return None
    folder = name.rpartition("/")[0]
    here = f"{folder}/" if folder else ""
    return _Table(name, pairs, tuple(dict.fromkeys((here, f"{name.rpartition('.')[0]}/", top))))


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: save it as UTF-8") from error


def _of_csv(text: str) -> Iterator[tuple[str, str]] | None:
    reader = _reader(text)
    header = next(reader, [])
    columns = _columns_of(header)
    if columns is None and len(header) > 1 and header[0].lower().endswith(EXTENSIONS):
        columns, reader = (0, 1), _reader(text)  # no header: files and labels
    if columns is None:
        return None
    file, label = columns
    first_word = _plain(header[label]) == KAGGLE
    return _pairs(reader, file, label, first_word)


def _reader(text: str) -> Iterator[list[str]]:
    line = text.partition("\n")[0]
    return csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=line.count), strict=True)


def _pairs(rows: Iterator[list[str]], file: int, label: int, first_word: bool) -> Iterator[tuple[str, str]]:
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) <= max(file, label):
            raise ValueError(f"this has {len(row)} columns on line {number}, too few")
        yield row[file], row[label].split(" ")[0] if first_word else row[label]


def _columns_of(header: Sequence[str]) -> tuple[int, int] | None:
    """The columns of files and of labels."""
    names = [_plain(name) for name in header]
    file, label = (
        next((names.index(name) for name in known if name in names), None)
        for known in (FILE_COLUMNS, (*LABEL_COLUMNS, KAGGLE))
    )
    return None if file is None or label is None else (file, label)


def _plain(name: str) -> str:
    return name.strip().casefold()


def _columns(content: bytes) -> str:
    """The columns of a table for a message."""
    names = next(_reader(content.decode(errors="replace")), [])
    return ", ".join(name[:30] for name in names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _of_jsonl(text: str) -> list[tuple[str, str]] | None:
    """Files and labels of one JSON object a line."""
    rows: list[tuple[str, str]] = []
    for line in filter(str.strip, text.splitlines()):
        found = parse(line)
        if not isinstance(found, dict) or not isinstance(found.get("file_name"), str):
            raise ValueError("this must have an object with a `file_name` on each line")
        label = next((found[name] for name in LABEL_COLUMNS if name in found), None)
        if type(label) not in (str, int):
            return None
        rows.append((found["file_name"], str(label)))
    return rows or None


# ---- all tables of a set


def _listed(
    path: Path,
    opener: Opener,
    entries: Mapping[str, str],
    images: Sequence[str],
    tables: Sequence[_Table],
    where: str,
) -> Listed:
    """The images in made-up class folders.

    Raises:
        ValueError: tables contradict each other, a path leads out of the folder, or no image has a label.
    """
    label_of, missing = _labels(tables, images)
    if not label_of:
        example = f", such as {missing[0][:80]!r}" if missing else ""
        raise ValueError(f"{tables[0].name} names no image that is there{example}")
    top = _top(label_of)
    divided = is_divided(image[len(top) :] for image in label_of)
    placed: dict[str, str] = {}
    for image, label in label_of.items():
        part, _, rest = image[len(top) :].partition("/") if divided else ("", "", image[len(top) :])
        placed[f"{part}/{label}/{rest}" if divided else f"{label}/{rest}"] = entries[image]
    notes = _notes(where, tables, len(images) - len(label_of), missing)
    folders = tuple(sorted(set(label_of.values())))
    return Listed(path, opener, placed, "", tuple(sorted(placed)), folders, where, notes=notes)


def _labels(tables: Sequence[_Table], images: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The label of each image that the tables name, and the files they name that are not there."""
    there = set(images)
    by_stem = {image.rpartition(".")[0]: image for image in images}
    label_of: dict[str, str] = {}
    missing = []
    for table in tables:
        for file, label in table.rows:
            inside = _inside(file, table.name)
            places = [start + inside for start in table.starts]
            found = next((place for place in places if place in there), None)
            found = found or next((by_stem[place] for place in places if place in by_stem), None)
            if found is None:
                missing.append(file)
                continue
            folder = _folder(label, table.name, file)
            if label_of.setdefault(found, folder) != folder:
                raise ValueError(
                    f"{table.name} gives {found} the label {label!r:.60}, and it has another one already"
                )
    return label_of, missing


def _inside(file: str, table: str) -> str:
    path = PureWindowsPath(file.strip())  # knows both kinds of slashes, and drive letters
    if path.anchor or ".." in path.parts:
        raise ValueError(f"{table} names {file!r:.80}, which leads out of its folder")
    return "/".join(path.parts)


def _folder(label: str, table: str, file: str) -> str:
    """A label as the name of a folder."""
    name = label.strip().replace("/", SLASH)
    if not name:
        raise ValueError(f"{table} gives {file!r:.80} no label")
    return name


def _notes(where: str, tables: Sequence[_Table], unnamed: int, missing: Sequence[str]) -> tuple[str, ...]:
    names = ", ".join(table.name for table in tables[:3]) + (", ..." if len(tables) > 3 else "")
    notes = [f"the classes of {where} are those in {names}"]
    if unnamed:
        notes.append(f"left out of {where}: {unnamed:,} images that the table does not name")
    if missing:
        notes.append(
            f"left out of {where}: {len(missing):,} files that the table names and that are not there, "
            f"such as {missing[0][:80]}"
        )
    return tuple(notes)
