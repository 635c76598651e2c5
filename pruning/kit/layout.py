"""What lies in a kit: the models and blocks to time, as data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

from analysis.formats import dump
from analysis.vit import Architecture, BlockWidths
from pruning.budget import (
    BUDGETED_STRUCTURES,
    FEWER,
    align_of,
    halves_alone,
    measured_widths,
    merged_alone,
    schedule,
    widths_on_grid,
)
from pruning.cut import with_merges, without_halves
from pruning.seeding import fingerprint

FORMAT = 2  # of kit.json
DENSE = "dense"
_MOST = 12  # widths of one structure
_MOST_OF_ALL = 24  # of a structure, over all blocks that differ
# Models that say how far the sum of blocks is true: with these shares of the dense widths, with one structure
# at this share, merging so much of the patches in these blocks (`schedule`), without two halves of blocks.
_PROBES = (0.75, 0.5, 0.3)
_ALONE = 0.5
_MERGED, _WINDOW = 0.5, (3, 4)
_WITHOUT = (0.25, 0.5)  # of the depth: the blocks


@dataclass(frozen=True)
class Entry:
    """One ONNX file of a kit: a whole model, or a block that is not quite the dense one.

    It may be narrowed in one structure, lack a half, merge behind its attention alone, or be given fewer
    `tokens`. `widths` are those of all blocks of a model, or of the one block; `of` are those of the dense
    block that a block comes from, None for a model.
    """

    name: str
    arch: Architecture  # of the model, or one with this block alone
    of: BlockWidths | None = None
    int8: bool = False
    tokens: int | None = None  # all of them

    @property
    def widths(self) -> tuple[BlockWidths, ...]:
        """Those of every block, or of the one."""
        return self.arch.blocks

    @property
    def kind(self) -> str:
        """model or block."""
        return "model" if self.of is None else "block"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what it takes for one image: C Y X, or N E."""
        arch = self.arch
        if self.of is None:
            return arch.in_channels, *arch.image_size
        return self.tokens or arch.num_tokens, arch.embed_dim

    def as_data(self, file: str) -> dict[str, Any]:
        """As it stands in kit.json."""
        return {
            "file": file,
            "shape": list(self.shape),
            "name": self.name,
            "int8": self.int8,
            "architecture": None if self.of else architecture_id(self.arch),
            "of": None if self.of is None else asdict(self.of),
            "widths": [asdict(block) for block in self.widths],
            "tokens": self.tokens,
        }


def architecture_id(arch: Architecture) -> str:
    """A name for all that a model's time depends on: its architecture."""
    blocks = tuple(map(astuple, arch.blocks))
    return fingerprint("architecture", sorted(vars(arch).items() - {("blocks", arch.blocks)}), blocks)


def entries(
    dense: Architecture,
    smaller: Sequence[tuple[str, Architecture]] = (),
    align: int = 8,
    int8: bool = False,
) -> tuple[Entry, ...]:
    """All that a kit times: the dense model, smaller ones, some probes, and blocks (`blocks_of`).

    Raises:
        ValueError: align out of its range.
    """
    models = dict(((DENSE, dense), *smaller))
    known = set(models.values())
    for name, probe in probes(dense, align).items():
        if probe not in known:
            models[f"probe {name}"] = probe
            known.add(probe)
    found = [Entry(name, arch) for name, arch in models.items()]
    found += blocks_of(dense, align)
    return tuple(found) + (tuple(replace(one, int8=True) for one in found) if int8 else ())


def probes(dense: Architecture, align: int) -> dict[str, Architecture]:
    """Smaller models by a name: narrower in everything, and in one respect at a time."""
    found = {f"{100 * share:.0f} %": narrowed(dense, share, align) for share in _PROBES}
    for name in BUDGETED_STRUCTURES:
        found[f"{name} {100 * _ALONE:.0f} %"] = narrowed(dense, _ALONE, align, (name,))
    for half, name in enumerate(("attention", "MLP")):
        places = sorted({int(share * dense.depth) for share in _WITHOUT})
        both = [place for place in places if dense.blocks[place].heads and dense.blocks[place].mlp]
        found[f"without {name}"] = without_halves(dense, [(place, half) for place in both])
    if not dense.merges:
        merges = schedule(dense, _WINDOW, _MERGED)
        found["merging"] = with_merges(dense, merges)
        found[f"{100 * _ALONE:.0f} %, merging"] = with_merges(narrowed(dense, _ALONE, align), merges)
    return found


def blocks_of(dense: Architecture, align: int) -> tuple[Entry, ...]:
    """Each of the dense model's blocks that differ: whole, narrowed in one structure, without a half.

    Of a model in which nothing merges yet also with fewer tokens, and merging. The two are what budgets need
    in order to merge tokens; where a model merges already, they leave that as it is.
    """
    found = []
    for whole in dict.fromkeys(dense.blocks):
        found += [
            _block(dense, whole, widths) for widths in (*offered(dense, whole, align), *halves_alone(whole))
        ]
        for merging in () if dense.merges else merged_alone(dense, whole):
            found.append(_block(dense, whole, merging))
            least = len(dense.prefix_names) + 1  # prefix tokens never merge
            fewer = dict.fromkeys(max(least, round(share * dense.num_tokens)) for share in FEWER)
            found += [_block(dense, whole, whole, tokens) for tokens in fewer if tokens < dense.num_tokens]
    return tuple(found)


def narrowed(
    dense: Architecture, share: float, align: int, structures: Sequence[str] = BUDGETED_STRUCTURES
) -> Architecture:
    """The model with this share of the structures, which are all that budgets narrow where none are named."""
    blocks = []
    for whole in dense.blocks:
        widths = {}
        for name in structures:
            full = getattr(whole, name)
            grid = widths_on_grid(full, measured_widths(full)[-1], align_of(dense, name, align))
            widths[name] = min(grid, key=lambda width: abs(width - share * full))
        blocks.append(replace(whole, **widths))
    return replace(dense, blocks=tuple(blocks))


def offered(dense: Architecture, whole: BlockWidths, align: int) -> Iterator[BlockWidths]:
    """The dense block, and those with one structure at every width that is timed."""
    most = min(_MOST, max(3, _MOST_OF_ALL // len(set(dense.blocks))))
    yield whole
    for name in BUDGETED_STRUCTURES:
        full = getattr(whole, name)
        grid = widths_on_grid(full, measured_widths(full)[-1], align_of(dense, name, align))
        step = -(-len(grid) // most)
        yield from (replace(whole, **{name: width}) for width in grid[::step] if width != full)


def _block(dense: Architecture, whole: BlockWidths, widths: BlockWidths, tokens: int | None = None) -> Entry:
    name = f"block {widths.heads} x ({widths.qk}, {widths.v}), {widths.mlp}"
    name += f", merging {widths.merge}" if widths.merge else ""
    name += f", {tokens} tokens" if tokens else ""
    return Entry(name, replace(dense, blocks=(widths,), skip_unread=False), whole, tokens=tokens)


def manifest(dense: Architecture, found: Sequence[Entry], files: Sequence[str]) -> str:
    """The text of kit.json."""
    listed = [entry.as_data(file) for entry, file in zip(found, files, strict=True)]
    kit = fingerprint("kit", FORMAT, listed)
    return dump({"version": FORMAT, "kit": kit, "architecture": architecture_id(dense), "entries": listed})
