"""Keys of a page: arrows go to the next image, block or head; `?` shows the list of them.

A page offers what its keys do while it is drawn, and the browser listens to them. A key that a field, a
slider or a picture with cells takes for itself is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import streamlit as st

NEXT, PREVIOUS = "ArrowRight", "ArrowLeft"
NEXT_BLOCK, PREVIOUS_BLOCK = "Shift+ArrowRight", "Shift+ArrowLeft"
NEXT_HEAD, PREVIOUS_HEAD = "Shift+ArrowDown", "Shift+ArrowUp"
_WORDS = {
    PREVIOUS: "Previous image",
    NEXT: "Next image",
    PREVIOUS_BLOCK: "The same head of the block before",
    NEXT_BLOCK: "The same head of the next block",
    PREVIOUS_HEAD: "The head before",
    NEXT_HEAD: "The next head",
}
_OFFERED = "keys offered"
_HERE = Path(__file__)
_HTML = """
<button class="open" type="button" aria-label="Keyboard shortcuts" title="Keyboard shortcuts">?</button>
<dialog aria-label="Keyboard shortcuts">
  <h2>Keys</h2>
  <table><tbody></tbody></table>
  <form method="dialog"><button type="submit">Close</button></form>
</dialog>
"""
_draw = st.components.v2.component(
    "prunescope.keys",
    html=_HTML,
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=_HERE.with_suffix(".js").read_text(encoding="utf-8"),
)
Moves = dict[str, Callable[[], None]]


def offer(moves: Mapping[str, Callable[[], None]]) -> None:
    """Have these keys do something on the page that is being drawn; the later of two offers holds."""
    st.session_state.setdefault(_OFFERED, {}).update(moves)


def offer_heads(
    now: tuple[int, int], heads: tuple[int, ...], pick: Callable[[tuple[int, int]], None]
) -> None:
    """Have keys move from head `now`, a block and a head in it, through blocks with so many heads."""
    block, head = now
    blocks = [index for index, count in enumerate(heads) if count]
    wanted = {
        PREVIOUS_BLOCK: max((index for index in blocks if index < block), default=block),
        NEXT_BLOCK: min((index for index in blocks if index > block), default=block),
        PREVIOUS_HEAD: block,
        NEXT_HEAD: block,
    }
    steps = {PREVIOUS_HEAD: -1, NEXT_HEAD: 1}
    places = {
        key: (place, min(max(head + steps.get(key, 0), 0), max(heads[place] - 1, 0)))
        for key, place in wanted.items()
    }
    offer({key: partial(pick, place) for key, place in places.items()})


@contextmanager
def listening() -> Iterator[None]:
    """Draw a page inside; then have the browser listen to the keys that it offered, if any."""
    moves: Moves = {}
    st.session_state[_OFFERED] = moves
    yield
    if not moves:
        return

    def pressed() -> None:
        moves[st.session_state["keys"]["pressed"]]()

    words = {key: said for key, said in _WORDS.items() if key in moves} | {"?": "This list"}
    _draw(key="keys", data={"words": words}, height="content", on_pressed_change=pressed)
