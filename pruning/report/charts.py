"""The report's charts as SVG text: static, small, and readable on both light and dark pages."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, Any

from analysis.anatomy import BLOCK_TITLES, of_blocks, told_by_block
from analysis.measure import Bin, wilson
from analysis.vit import Architecture
from pruning.report.comparison import Trade
from pruning.wording import accuracy_within

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#8a9690", "#14907a", "#e0a030", "#6a6fd8", "#d2604f")  # the dense model, then the others
ACCENT = "#d2604f"
INK = "#010203"  # placeholder for the page's text colour
WIDE = 8.2  # inches of 72 points


def trade_off(trades: Sequence[Trade], front: Sequence[Trade], chosen: set[str]) -> str:
    """Top-1 with its 95 % interval against GMACs, with the Pareto front as steps."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.step(
            [trade.gmacs for trade in front],
            [100 * trade.result.top1 for trade in front],
            where="post",
            color=COLOURS[1],
            linestyle=":",
        )
        for trade in trades:
            result, ahead = trade.result, trade in front
            colour = COLOURS[0] if trade.dense or not ahead else COLOURS[1]
            top1 = 100 * result.top1
            spread = [[100 * (result.top1 - result.top1_low)], [100 * (result.top1_high - result.top1)]]
            axes.errorbar(
                trade.gmacs,
                top1,
                yerr=spread,
                color=colour,
                marker="D" if trade.dense else "o",
                markersize=7 if trade.name in chosen else 5,
                markeredgecolor=ACCENT if trade.name in chosen and not trade.dense else colour,
                elinewidth=1,
                capsize=2,
                zorder=3 if trade.name in chosen else 2,
            )
            if ahead or trade.name in chosen:
                place = (trade.gmacs, top1)
                axes.annotate(trade.name, place, (6, 6), textcoords="offset points", fontsize=9, color=INK)
        axes.set_xlim(0, 1.16 * max(trade.gmacs for trade in trades))
        axes.set_ylim(max(100 * min(trade.result.top1_low for trade in trades) - 5, 0), 102)
        axes.set_xlabel("GMACs per image")
        axes.set_ylabel(f"{accuracy_within(trades[0].result)}, %, and 95 % interval")

    return _svg(draw, 3.6, "trade-off")


def widths(models: Sequence[tuple[str, Architecture]]) -> str:
    """Widths of every block: bars for the dense model, and lines for the others in front of them."""
    told = told_by_block(arch for _, arch in models)
    rows = ceil(len(told) / 2)

    def draw(figure: Figure) -> None:
        places = list(figure.subplots(rows, 2).flat)
        for spare in places[len(told) :]:
            spare.set_axis_off()
        for axes, width in zip(places, told, strict=False):
            for index, (name, arch) in enumerate(models):
                values = of_blocks(arch, width)
                blocks = range(arch.depth)
                if index == 0:
                    axes.bar(blocks, values, color=COLOURS[0], alpha=0.35, label=name)
                else:
                    look = {"drawstyle": "steps-mid", "marker": "o", "markersize": 3}
                    axes.plot(blocks, values, color=COLOURS[index], label=name, **look)
            axes.set_title(BLOCK_TITLES[width], fontsize=10, color=INK)
            axes.set_ylim(bottom=0)
            _whole(axes)
        handles = dict(zip(*reversed(places[0].get_legend_handles_labels()), strict=True))
        names = [name for name, _ in models]
        figure.legend(
            [handles[name] for name in names],
            names,
            loc="outside upper right",
            ncols=5,
            frameon=False,
            fontsize=9,
        )

    return _svg(draw, 2.3 * rows, "widths")


def calibration(models: Sequence[tuple[str, float, Sequence[Bin]]]) -> str:
    """A reliability diagram for each model, given its name, ECE and bins."""
    columns = min(len(models), 3)
    rows = ceil(len(models) / columns)

    def draw(figure: Figure) -> None:
        places = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for place, (axes, (name, error, bins)) in enumerate(zip(places, models, strict=False)):
            axes.plot([0, 100], [0, 100], color=ACCENT, linestyle="--", linewidth=1)
            _bins(axes, [bin for bin in bins if bin.images], COLOURS[place])
            axes.set_title(f"{name}, ECE {100 * error:.1f} %", fontsize=10, color=INK)
            axes.set_xlim(0, 100)
            axes.set_ylim(0, 103)
            axes.set_xlabel("confidence, %")
        places[0].set_ylabel("accuracy, %")
        for axes in places[len(models) :]:
            axes.set_axis_off()

    return _svg(draw, 2.7 * rows, "calibration")


def _bins(axes: Axes, bins: Sequence[Bin], colour: str) -> None:
    bounds = [wilson(bin.right, bin.images) for bin in bins]
    axes.bar(
        [50 * (bin.low + bin.high) for bin in bins],
        [100 * bin.accuracy for bin in bins],
        [96 * (bin.high - bin.low) for bin in bins],
        color=colour,
        alpha=0.75,
        yerr=[
            [100 * (bin.accuracy - low) for bin, (low, _) in zip(bins, bounds, strict=True)],
            [100 * (high - bin.accuracy) for bin, (_, high) in zip(bins, bounds, strict=True)],
        ],
        error_kw={"ecolor": COLOURS[0], "elinewidth": 0.8},
    )


def _whole(axes: Axes) -> None:
    """Restrict the ticks of both axes (blocks and widths) to whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))


# ---- drawing


def _svg(draw: Callable[[Figure], None], height: float, name: str) -> str:
    """A figure drawn by `draw` as an `svg` element whose text takes the page's font and colour."""
    from matplotlib.figure import Figure  # takes a second to import

    written = io.StringIO()
    with _look(name):
        figure = Figure((WIDE, height), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(written, format="svg", transparent=True, metadata=metadata)
    element = written.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r'<svg ([^>]*?)width="[^"]*" height="[^"]*"', r"<svg \1", element, count=1)


@contextmanager
def _look(name: str) -> Iterator[None]:
    """matplotlib settings: names are not parsed as mathematics, and equal charts give equal text."""
    import matplotlib

    settings: dict[str, Any] = {
        "text.parse_math": False,
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 9,
        "axes.labelsize": 9,
        "axes.grid": True,
        "grid.color": "#8a969040",
        "axes.edgecolor": COLOURS[0],
        **{f"{axis}tick.color": COLOURS[0] for axis in "xy"},
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    }
    with matplotlib.rc_context(settings):
        yield
