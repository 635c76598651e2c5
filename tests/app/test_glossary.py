"""The glossary: the page in docs and the question marks of the app say the same."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from app.drawings import DRAWINGS, HEIGHT, WIDTH, data_uri, svg
from app.glossary import TERMS, meaning
from tests.support.models import ROOT


def test_the_page_in_docs_has_the_sentences_of_the_app() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (.+?) \| (.+) \|$", page, re.M))
    del rows["term"]
    assert rows == dict(TERMS) and list(rows) == sorted(rows, key=str.casefold)


def test_each_term_has_one_sentence() -> None:
    for term, sentence in TERMS.items():
        assert sentence.endswith(".") and sentence.count(". ") == 0, term
        assert 40 < len(sentence) < 200, term
    first, second, *_ = meaning("GMACs", "Head").split("\n\n")
    assert first == f"![GMACs]({data_uri('GMACs')})" and second.startswith("**GMACs**: Billions")


def test_each_term_has_a_drawing_within_its_frame() -> None:
    assert set(DRAWINGS) == set(TERMS)
    for term in TERMS:
        drawing = ElementTree.fromstring(svg(term))
        assert len(drawing), term
        for x, y in places(drawing):
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT, (term, x, y)


def places(drawing: ElementTree.Element) -> list[tuple[float, float]]:
    """Corners of boxes, ends of lines and rims of circles."""
    found = []
    for shape in drawing:
        given = {name: float(shape.get(name, 0)) for name in ("x", "y", "width", "height", "cx", "cy", "r")}
        found.append((given["x"], given["y"]))
        found.append((given["x"] + given["width"], given["y"] + given["height"]))
        if shape.get("r"):
            found.append((given["cx"] - given["r"], given["cy"] - given["r"]))
            found.append((given["cx"] + given["r"], given["cy"] + given["r"]))
        points = [one.split(",") for one in shape.get("points", "").split()]
        found += [(float(x), float(y)) for x, y in points]
    return found
