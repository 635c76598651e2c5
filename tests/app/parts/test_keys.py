"""Keys: what the arrows lead to, and that a page without anything to move through listens to none."""

from __future__ import annotations

import pytest

from app.parts.keys import keys
from app.state.session import Choice
from tests.support.app import elements, start


def moved(now: tuple[int, int], heads: tuple[int, ...], key: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """Where a key leads from a head."""
    state: dict[str, keys.Moves] = {}
    monkeypatch.setattr("streamlit.session_state", state)
    found: list[tuple[int, int]] = []
    keys.offer_heads(now, heads, found.append)
    (moves,) = state.values()
    moves[key]()
    return found[0]


@pytest.mark.parametrize(
    ("now", "key", "then"),
    [
        ((0, 1), keys.NEXT_BLOCK, (2, 1)),  # past a block without attention
        ((2, 3), keys.PREVIOUS_BLOCK, (0, 1)),  # which has two heads
        ((2, 3), keys.NEXT_BLOCK, (2, 3)),
        ((0, 0), keys.PREVIOUS_BLOCK, (0, 0)),
        ((2, 1), keys.NEXT_HEAD, (2, 2)),
        ((2, 1), keys.PREVIOUS_HEAD, (2, 0)),
        ((0, 1), keys.NEXT_HEAD, (0, 1)),
    ],
)
def test_shift_and_arrows_lead_through_blocks_and_heads(
    now: tuple[int, int], key: str, then: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert moved(now, (2, 0, 4), key, monkeypatch) == then


@pytest.mark.parametrize(("page", "listens"), [("attention", True), ("model", False)])
def test_a_page_says_which_keys_it_has(page: str, listens: bool) -> None:
    app = start(page, Choice(limit=10))
    sent = [str(one.proto) for one in elements(app, "bidi_component")]
    assert any("The next head" in one for one in sent) is listens
