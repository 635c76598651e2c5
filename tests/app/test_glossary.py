"""The glossary: the page in docs and the question marks of the app say the same."""

from __future__ import annotations

import re

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
    assert meaning("GMACs", "Head").startswith("**GMACs**: Billions")
