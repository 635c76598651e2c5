"""What a kit measured on a device, `device.json`, and the table of latencies that budgets are solved on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from typing import ClassVar

from analysis.architecture import MOST_BLOCKS
from analysis.formats import Checked, Stored
from analysis.measure import MOST_BATCH, MOST_ROUNDS
from analysis.vit import Architecture, BlockWidths
from pruning.budget import LatencyTable, halves_alone
from pruning.kit.corrected import corrected
from pruning.kit.layout import architecture_id

MOST_ENTRIES = 4096
MOST_TEXT = 200  # characters
MOST_MS = 1e7  # of one pass: some hours
MOST_THREADS = 1024


@dataclass(frozen=True)
class Timed(Checked):
    """A whole model, or a block that is not quite the dense one, and its milliseconds by batch size.

    There is one number for every round. A model has the fingerprint of its architecture and the widths of all
    its blocks, a block its own widths and those of the dense block it comes from (`layout.Entry`).

    Raises:
        ValueError: a value of another type or out of its range, or neither a model nor a block.
    """

    name: str
    int8: bool
    widths: tuple[BlockWidths, ...]
    ms: Mapping[int, tuple[float, ...]]
    architecture: str | None = None
    of: BlockWidths | None = None
    tokens: int | None = None  # of a block that is given fewer of them

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_texts(name=self.name, architecture=self.architecture or "")
        if (self.architecture is None) == (self.of is None):
            raise ValueError("either `architecture` of a model or `of` of a block must be given")
        if not 1 <= len(self.widths) <= MOST_BLOCKS:
            raise ValueError(f"`widths` must be those of 1 to {MOST_BLOCKS} blocks, got {len(self.widths)}")
        if self.of is not None and not (len(self.widths) == 1 and _is_offered(self.widths[0], self.of)):
            raise ValueError(
                "`widths` must be those of the block `of`, one of them narrowed at most, or of a half of it"
            )
        if self.tokens is not None and not (self.widths == (self.of,) and self.tokens > 0):
            raise ValueError("`tokens` belongs to a block that is not narrowed, and must be at least 1")
        for batch, times in self.ms.items():
            if not 1 <= batch <= MOST_BATCH:
                raise ValueError(f"batch sizes in `ms` must be from 1 to {MOST_BATCH:,}, got {batch:,}")
            if not all(0 < time <= MOST_MS for time in times):
                raise ValueError(f"`ms.{batch}` must be milliseconds above 0, at most {MOST_MS:,.0f}")


@dataclass(frozen=True)
class DeviceTable(Stored):
    """What benchmark.py wrote on a device.

    `kit` and `architecture` are fingerprints of the kit and of its dense model, which is the first entry.

    Raises:
        ValueError: a value of another type or out of its range, or entries that do not fit each other.
    """

    VERSION: ClassVar[int] = 2  # 1 had neither halves of blocks nor fewer tokens
    NEEDED: ClassVar[tuple[str, ...]] = ("kit", "architecture")

    kit: str
    architecture: str
    device: str
    processor: str
    system: str
    runtime: str
    provider: str
    threads: int
    rounds: int
    entries: tuple[Timed, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ("kit", "architecture", "device", "processor", "system", "runtime", "provider")
        _require_texts(**{name: getattr(self, name) for name in names})
        for name, most in (("threads", MOST_THREADS), ("rounds", MOST_ROUNDS)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"`{name}` must be from 1 to {most:,}, got {getattr(self, name):,}")
        if not 1 <= len(self.entries) <= MOST_ENTRIES:
            raise ValueError(f"`entries` must be from 1 to {MOST_ENTRIES:,}, got {len(self.entries):,}")
        self._require_entries()

    def _require_entries(self) -> None:
        first, known = self.entries[0], set()
        if first.architecture != self.architecture:
            raise ValueError("the first of `entries` must be the dense model")
        for place, entry in enumerate(self.entries):
            name = entry.name if entry.of is None else ""
            key = (name, entry.of, entry.widths, entry.int8, entry.tokens)
            if key in known:
                raise ValueError(f"`entries[{place}]` was timed before it in the same file")
            known.add(key)
            if set(entry.ms) != set(first.ms) or not entry.ms:
                raise ValueError(f"`entries[{place}].ms` must have the batch sizes of the first entry")
            if any(len(times) != self.rounds for times in entry.ms.values()):
                raise ValueError(
                    f"`entries[{place}].ms` must have {self.rounds:,} rounds for each batch size"
                )
            if entry.of is not None and entry.of not in first.widths:
                raise ValueError(f"`entries[{place}].of` must be a block of the dense model")

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that were timed, rising."""
        return tuple(sorted(self.entries[0].ms))

    @property
    def precisions(self) -> tuple[bool, ...]:
        """Whether in int8: False, and True if the kit has int8 too."""
        return tuple(sorted({entry.int8 for entry in self.entries}))

    def times(self, arch: Architecture, int8: bool = False) -> Mapping[int, tuple[float, ...]] | None:
        """Milliseconds of a model in every round, by batch size; None if it was not timed."""
        wanted = architecture_id(arch)
        found = (entry.ms for entry in self.entries if (entry.architecture, entry.int8) == (wanted, int8))
        return next(found, None)

    def table(self, dense: Architecture, batch: int, int8: bool = False) -> LatencyTable:
        """The latencies that a budget is solved on.

        Raises:
            ValueError: the file is of another model, has no times of this batch size or of int8, or says that
                no smaller model is faster.
        """
        if self.architecture != architecture_id(dense):
            raise ValueError(
                f"the table of {self.device} was measured for another model: make a kit of this one, and run "
                "it on the device (python -m pruning kit)"
            )
        if batch not in self.batches:
            have = ", ".join(map(str, self.batches))
            raise ValueError(f"{self.device} was timed at batch {have}, not at {batch}")
        if int8 not in self.precisions:
            raise ValueError(f"{self.device} was not timed in int8: make the kit with --int8")
        mine = [entry for entry in self.entries if entry.int8 == int8]
        whole = next((e for e in mine if e.architecture == self.architecture), None)
        timed = {(e.of, e.widths[0], e.tokens): _usual(e.ms[batch]) for e in mine if e.of is not None}
        blocks = {of: ms for (of, widths, tokens), ms in timed.items() if widths == of and tokens is None}
        if whole is None or not set(dense.blocks) <= set(blocks):
            raise ValueError(f"the table of {self.device} lacks the dense model or one of its blocks")
        shares = {
            (of, widths): ms / blocks[of]
            for (of, widths, tokens), ms in timed.items()
            if of in blocks and tokens is None and widths.merge in (0, of.merge)
        }
        merging = [
            ms - timed[of, replace(widths, merge=0), None]
            for (of, widths, _), ms in timed.items()
            if widths.merge > of.merge and (of, replace(widths, merge=0), None) in timed
        ]
        found = LatencyTable(
            batch,
            median(whole.ms[batch]),
            blocks,
            shares,
            tokens=_by_tokens(timed, blocks, dense.num_tokens) if merging else {},
            merging=max(0.0, median(merging)) if merging else 0.0,
        )
        usual = _usual(whole.ms[batch])
        models = [
            (replace(dense, blocks=e.widths), _usual(e.ms[batch]) / usual)
            for e in mine
            if e.of is None and e is not whole and len(e.widths) == dense.depth
        ]
        found = corrected(found, dense, models)
        if models and not found.truth:
            raise ValueError(
                f"on {self.device} none of the {len(models)} smaller models was faster than the dense one: "
                "run the kit again while the device does nothing else, or with more --rounds"
            )
        return replace(found, device=self.device)


def read_device(file: Path) -> DeviceTable:
    """What benchmark.py wrote.

    Raises:
        ValueError: it cannot be read, or is damaged; the sentence names the file.
    """
    return DeviceTable.read(file)


def _by_tokens(
    timed: Mapping[tuple[BlockWidths, BlockWidths, int | None], float],
    blocks: Mapping[BlockWidths, float],
    most: int,
) -> dict[BlockWidths, tuple[tuple[float, float], ...]]:
    """For every dense block the part of its time that it takes with each share of the tokens, both rising."""
    found = {}
    for block, ms in blocks.items():
        fewer = {tokens: one for (of, _, tokens), one in timed.items() if of == block and tokens}
        rising, last = [(1.0, 1.0)], 1.0
        for tokens in sorted(fewer, reverse=True):
            last = min(last, fewer[tokens] / ms)
            rising.insert(0, (tokens / most, last))
        found[block] = tuple(rising)
    return found


def _usual(times: tuple[float, ...]) -> float:
    """The lower quartile of all rounds, for ratios: what else a device does only makes passes slower."""
    return sorted(times)[(len(times) - 1) // 4]


def _is_offered(widths: BlockWidths, of: BlockWidths) -> bool:
    """Whether a kit times such a block beside the dense one `of`."""
    if replace(widths, merge=of.merge if widths.heads else 0) in halves_alone(of):
        return True
    pairs = list(zip(astuple(widths), astuple(of), strict=True))
    return widths.heads == of.heads and sum(a != b for a, b in pairs) <= 1 and all(a <= b for a, b in pairs)


def _require_texts(**texts: str) -> None:
    for name, text in texts.items():
        if len(text) > MOST_TEXT or not text.isprintable():
            raise ValueError(f"`{name}` must be one line of at most {MOST_TEXT} characters")
