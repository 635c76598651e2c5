"""Bad paths in every field and in the address of the app: a sentence, and the page stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.support.app import MAIN
from tests.support.bad_paths import BAD_PATHS, bad_path

# the text of a field and of an address is UTF-8, and the one of a field has no null bytes in it
BAD = [name for name in BAD_PATHS if name not in ("nothing", "spaces", "not UTF-8")]


def opened(page: str = "", **address: str) -> AppTest:
    app = AppTest.from_file(MAIN, default_timeout=60)
    for name, value in address.items():
        app.query_params[name] = value
    app.run()
    if page:
        app.switch_page(f"views/{page}.py").run()
    assert not app.exception
    return app


def told(app: Any) -> str:
    assert not app.exception
    return " ".join(one.value for one in (*app.error, *app.warning, *app.info))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("parameter", ["model", "data", "weights"])
def test_the_address(parameter: str, name: str, tmp_path: Path) -> None:
    text, _ = bad_path(name, tmp_path)
    others = {"model": "vit_tiny_patch16_224"} if parameter == "weights" else {}
    app = opened(**{parameter: text, **others})
    assert "What the address asks for cannot be loaded" in told(app)
    assert app.session_state["choice"].model == "demo"
