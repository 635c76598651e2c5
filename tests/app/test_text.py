"""Text that is not ours meets Streamlit through one helper: read from the code of the app."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.support.models import ROOT
from tests.support.our_words import OurWords, name_of

BODY = "markdown caption header subheader title write info error warning success toast exception latex"
LABELLED = (
    "badge button checkbox chat_input date_input download_button expander file_uploader form_submit_button "
    "link_button menu_button multiselect number_input page_link popover selectbox select_slider slider "
    "status text_area text_input time_input toggle Column CheckboxColumn NumberColumn TextColumn LinkColumn "
    "ProgressColumn"
)
# What Streamlit reads as Markdown: places of arguments, and their names.
MARKDOWN: dict[str, tuple[int, set[str]]] = {
    **dict.fromkeys(BODY.split(), (1, {"body", "help"})),
    **dict.fromkeys(LABELLED.split(), (1, {"label", "help"})),
    **dict.fromkeys(("segmented_control", "pills", "radio"), (2, {"label", "options", "captions", "help"})),
    "metric": (3, {"label", "value", "delta", "delta_description", "help"}),
    "tabs": (1, {"tabs"}),
    "table": (1, {"data"}),
    "spinner": (1, {"text"}),
    "progress": (0, {"text"}),
    "image": (0, {"caption"}),
}
HTML = {"html": (1, {"body"})}
FILES = sorted((ROOT / "app").rglob("*.py"))
# Attributes that hold words of ours or numbers, and why.
KNOWN = {
    "st.session_state['pages'][page]": "a page of the app",
    "run.state": "one of six words",
    "found.timings.ms": "numbers",
    "timed.threads": "a number",
    "titles.get(option.name, option.name.replace('_', ' ').capitalize())": "a field of our options",
    "torch.get_num_threads()": "a number",
    "torch.__version__": "of what is installed",
    "query.phrase": "the name of a token or the place of a patch",
    "head_names(session.model().model.arch)": "pairs of numbers",
    "head_locks.sentence()": "numbers of heads",
    "known.source": "a sentence of ours with a number",
    "heads.images": "a number",
    "figures": "titles of ours, and numbers",
    "model.when": "before or after fine-tuning",
    "finished.when": "before or after fine-tuning",
    "one.rows()": "titles of ours, and numbers",
    "shown.model.arch": "numbers",
    "_of_head(found, one.model, (block, head))": "numbers, and the name of a model through `plain`",
}
KNOWN_HTML = {"bars.block_costs(cost(loaded.model.arch), quantity)": "numbers, and names of parts"}


def imported(tree: ast.AST) -> set[str]:
    """What a file imports, by the names that it gives them."""
    kinds = (ast.Import, ast.ImportFrom)
    return {
        one.asname or one.name for node in ast.walk(tree) if isinstance(node, kinds) for one in node.names
    }


def texts(code: OurWords, calls: dict[str, tuple[int, set[str]]]) -> Iterator[tuple[str, ast.expr]]:
    """Every expression of the app that Streamlit reads as markup in these calls, and where it stands."""
    for file, tree in code.trees.items():
        modules = imported(tree) - {"st"}
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                continue
            name = name_of(call.func)
            if name not in calls or name_of(call.func.value) in modules | {"_log"}:
                continue
            count, named = calls[name]
            given = [*call.args[:count], *(one.value for one in call.keywords if one.arg in named)]
            forms = [one.value for one in call.keywords if one.arg == "format_func" and count == 2]
            for text in [*given[:1], *forms, *given[2:]] if forms else given:
                yield f"{file.relative_to(ROOT)}:{text.lineno}", text


def foreign(code: OurWords, calls: dict[str, tuple[int, set[str]]]) -> list[str]:
    """What Streamlit is given of text that is not ours."""
    return [f"{place}: {ast.unparse(text)}" for place, text in texts(code, calls) if not code.is_ours(text)]


def test_only_our_words_reach_streamlit_as_markdown() -> None:
    code = OurWords(FILES, {"plain"}, KNOWN)
    assert len(list(texts(code, MARKDOWN))) > 250
    assert foreign(code, MARKDOWN) == [], "pass what is not ours through app.wording.plain"
    assert code.used == set(KNOWN), "these are no longer there"


def test_only_our_words_reach_streamlit_as_html() -> None:
    code = OurWords(FILES, {"escape"}, KNOWN_HTML)
    assert len(list(texts(code, HTML))) >= 4
    assert foreign(code, HTML) == [], "pass what is not ours through html.escape"
    assert not any("unsafe_allow_html" in file.read_text(encoding="utf-8") for file in FILES)


@pytest.mark.parametrize("name", ["sidebar.py", "predictions.py", "viewed_image.py"])
def test_a_text_that_goes_round_the_helper_is_found(name: str) -> None:
    """Each time that the helper is taken away, the test above would fail."""
    (file,) = [file for file in FILES if file.name == name]
    for place in range(file.read_text(encoding="utf-8").count("wording.plain(")):
        code = OurWords(FILES, {"plain"}, KNOWN)
        helped = [call for call in ast.walk(code.trees[file]) if is_helped(call)]
        helped[place].func = ast.Name("str")  # type: ignore[attr-defined]
        assert foreign(code, MARKDOWN), ast.unparse(helped[place])


def is_helped(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) == "plain"
