"""Head locks: heads that the user has decided to keep or remove, regardless of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from analysis.formats import Checked
from analysis.paths import quoted
from analysis.vit import Architecture
from pruning.cut.plan import Plan

Head = tuple[int, int]  # block, and head within it
_LONGEST = 20  # characters of one head


@dataclass(frozen=True)
class HeadLocks(Checked):
    """Heads, (block, head) each, to keep and to remove; stored sorted and without duplicates.

    Raises:
        ValueError: an entry is not a head, or a head is locked both to stay and to go.
    """

    keep: tuple[Head, ...] = ()
    remove: tuple[Head, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("keep", "remove"):
            heads: tuple[Head, ...] = getattr(self, name)
            for head in heads:
                if min(head) < 0:
                    raise ValueError(f"a head is named by block and head, numbers of at least 0, got {head}")
            object.__setattr__(self, name, tuple(sorted(set(heads))))
        both = set(self.keep) & set(self.remove)
        if both:
            raise ValueError(f"a head can be kept or removed, not both: {format_heads(sorted(both))}")

    def __bool__(self) -> bool:
        """Whether anything is locked."""
        return bool(self.keep or self.remove)

    def require_fit(self, dense: Architecture) -> None:
        """Check that the model has these heads and that at least one remains in every block.

        Raises:
            ValueError: the locks do not fit the model.
        """
        counts = [widths.heads for widths in dense.blocks]
        for block, head in (*self.keep, *self.remove):
            if block >= len(counts) or head >= counts[block]:
                raise ValueError(
                    f"there is no head {block}.{head} to lock: the model has blocks 0 to {len(counts) - 1} "
                    f"with up to {max(counts)} heads"
                )
        for block, count in enumerate(counts):
            if count and sum(one == block for one, _ in self.remove) == count:
                raise ValueError(
                    f"block {block} would lose all of its {count} heads; at least one has to be kept"
                )

    def widths(self, dense: Architecture, target: Architecture) -> Architecture:
        """The target with the number of heads in each block changed as far as the locks require.

        Raises:
            ValueError: the locks do not fit the model.
        """
        self.require_fit(dense)
        blocks = []
        for index, (before, after) in enumerate(zip(dense.blocks, target.blocks, strict=True)):
            most = before.heads - sum(block == index for block, _ in self.remove)
            least = sum(block == index for block, _ in self.keep)
            blocks.append(replace(after, heads=max(least, min(after.heads, most))))
        return replace(target, blocks=tuple(blocks))

    def order(self, heads: Sequence[Float[Tensor, " H"]]) -> tuple[Float[Tensor, " H"], ...]:
        """Scores in which heads locked to stay come above all others, and those locked to go below."""
        top = max(float(block.max()) for block in heads if len(block))
        low = min(float(block.min()) for block in heads if len(block))
        step = 1 + abs(top) + abs(low)  # large enough not to be lost to rounding
        ordered = [block.clone() for block in heads]
        for block, head in self.keep:
            ordered[block][head] = top + step
        for block, head in self.remove:
            ordered[block][head] = low - step
        return tuple(ordered)

    def plan(self, dense: Architecture) -> Plan | None:
        """The plan that removes exactly the heads locked to go; None if there are none.

        Raises:
            ValueError: the locks do not fit the model.
        """
        self.require_fit(dense)
        if not self.remove:
            return None
        whole, blocks = Plan.keep_all(dense), []
        for index, block in enumerate(whole.blocks):
            heads = tuple(head for head in block.heads if (index, head) not in self.remove)
            count = len(heads)
            blocks.append(replace(block, heads=heads, qk=block.qk[:count], v=block.v[:count]))
        return replace(whole, blocks=tuple(blocks))

    def left(self, dense: Architecture) -> Architecture:
        """The architecture without the heads that are locked to go.

        Raises:
            ValueError: the locks do not fit the model.
        """
        plan = self.plan(dense)
        return dense if plan is None else plan.architecture(dense)

    def within(self, heads: Plan | None) -> HeadLocks:
        """The locks on heads to keep, renumbered for the model that remains after the plan `heads`."""
        if heads is None:
            return self
        pairs = ((block, head) for block, head in self.keep if head in heads.blocks[block].heads)
        return HeadLocks(keep=tuple((block, heads.blocks[block].heads.index(head)) for block, head in pairs))


def format_heads(heads: Sequence[Head]) -> str:
    """Heads as text, in the form the user enters them: `0.1,3.2`."""
    return ",".join(f"{block}.{head}" for block, head in heads)


def parse_heads(text: str) -> tuple[Head, ...]:
    """Parse heads from the form of `format_heads`.

    Raises:
        ValueError: the text is not in that form.
    """
    pairs = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        block, dot, head = word.partition(".")
        numbers = dot and block.isdecimal() and head.isdecimal()
        if not numbers or len(word) > _LONGEST:
            raise ValueError(f"a head is written BLOCK.HEAD, such as 3.2, got {quoted(word)}")
        pairs.append((int(block), int(head)))
    return tuple(pairs)
