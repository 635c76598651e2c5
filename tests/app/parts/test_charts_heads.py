"""Every grid of heads lays them out alike, whatever it says of them."""

from __future__ import annotations

from typing import Any

import pytest

from app.views.attention.charts import on_object
from app.views.compare.charts import preserved

HEADS = ((0, 0), (0, 1), (0, 2), (1, 0))  # of two blocks, uneven
CHOSEN = (0, 2)
ROWS = [[0.1, 0.2, 0.3], [0.4]]
GRIDS: dict[str, Any] = {
    "on the object": lambda: on_object(ROWS, ROWS, CHOSEN),
    "preserved": lambda: preserved([[0.1, float("nan"), 0.3], [0.4]], CHOSEN),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_cell_is_square_and_a_click_on_it_tells_its_head(name: str) -> None:
    figure = GRIDS[name]()
    places = [(trace.x[i], trace.y[i]) for trace in figure.data for i in range(len(trace.x))]
    told = [tuple(head[:2]) for trace in figure.data for head in trace.customdata]
    assert sorted(places) == sorted(told) == list(HEADS)
    layout = figure.layout
    step = (layout.width - layout.margin.l - layout.margin.r) / 2
    assert step == pytest.approx((layout.height - layout.margin.t - layout.margin.b) / 3)
    assert 14 <= step <= 52 and max(trace.marker.size for trace in figure.data) < step
    assert layout.yaxis.range[0] > layout.yaxis.range[1]  # head 0 is at the top
    (frame,) = layout.shapes
    assert frame.x0 < CHOSEN[0] < frame.x1 and frame.y0 < CHOSEN[1] < frame.y1
    assert frame.x1 - frame.x0 < 1 and layout.clickmode == "event+select"


def test_numbers_are_left_out_where_there_is_no_room() -> None:
    figure: Any = on_object([[0.25] * 12] * 12, [[0.0] * 12] * 12, (3, 4))
    assert figure.data[0].mode == "markers" and figure.data[0].text is None
