"""Which patches have become one token, and values of tokens as values of patches.

Maps are over the tokens that enter the first block, N0: prefix tokens and patches. A model that merges has
fewer, N, further on. Attention from a patch is then that of its token, and attention to a token is shared
out among its patches alike, so that rows still sum to one. `Members` None means that nothing has merged
yet: every function here then gives back what it is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from analysis.vit import Merge, Placed, sizes_and_places


@dataclass(frozen=True, eq=False)
class Members:
    """What has merged: of each prefix token and patch the token that it is part of.

    `token` holds its index among the N tokens that there are now, and `sizes` how many are part of each of
    those.
    """

    token: Int[Tensor, "*B N0"]
    sizes: Float[Tensor, "*B N"]

    def matrix(self) -> Float[Tensor, "*B N0 N"]:
        """1 where a patch (row) is part of a token (column), else 0."""
        places = torch.arange(self.sizes.shape[-1], device=self.token.device)
        return (self.token[..., None] == places).to(self.sizes)


@torch.no_grad()
def merged(
    merge: Merge | None,
    given: tuple[Tensor, Tensor | Placed | None, Tensor | None] | None,
    members: Members | None,
) -> Members | None:
    """The members behind a block's merging, from what that was given and the members before it.

    The same object if it merges nothing.
    """
    if merge is None or given is None:
        return members
    x, read, (sizes, _) = given[0], given[2], sizes_and_places(given[1])
    place = merge.places(x, read)  # B N
    before = torch.ones_like(x[..., 0]) if sizes is None else sizes
    after = before.new_zeros(len(x), x.shape[1] - merge.count).scatter_add(1, place, before)
    return Members(place if members is None else place.gather(1, members.token), after)


def of_first(members: Members | None) -> Members | None:
    """The members of a batch's first image alone, in memory of their own."""
    return None if members is None else Members(members.token[0].clone(), members.sizes[0].clone())


def of_its_token(
    values: Float[Tensor, "*values"], members: Members | None, axis: int = -1
) -> Float[Tensor, "*expanded"]:
    """Every patch has the value of its token: N become N0 on one axis, counted from the end."""
    if members is None:
        return values
    return values.gather(axis, _along(members.token, values, axis))


def shared_out(values: Float[Tensor, "*B *H N"], members: Members | None) -> Float[Tensor, "*B *H N0"]:
    """The value of a token is shared out among its patches alike; the sum over them stays the same."""
    if members is None:
        return values
    return of_its_token(values / _along(members.sizes, values, -1), members)


def over_patches(maps: Float[Tensor, "*B *H N N"], members: Members | None) -> Float[Tensor, "*B *H N0 N0"]:
    """Attention between tokens as attention between patches."""
    return shared_out(of_its_token(maps, members, axis=-2), members)


def averaging(members: Members) -> Float[Tensor, "*B N0 N0"]:
    """The mean over all patches of a token: what is read behind the merging cannot tell them apart.

    It is one block's factor in a rollout, as its merging is: rows sum to one.
    """
    return shared_out(members.matrix(), members)


def _along(index: Tensor, values: Tensor, axis: int) -> Tensor:
    """An index *B K for one axis of values *B ..., as large as these on all other axes."""
    batch = index.shape[:-1]
    shape = [*batch, *(1 for _ in values.shape[len(batch) :])]
    shape[axis] = index.shape[-1]
    wide = list(values.shape)
    wide[axis] = index.shape[-1]
    return index.view(shape).expand(wide)
