"""What attention is shown from: one token, or the mean over all patches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from analysis.attention import mean_of_patches, one_token, token_names
from analysis.vit import Architecture

PATCH_MEAN = "mean over patches"


@dataclass(frozen=True, eq=False)
class Query:
    """The row that is read from attention matrices: a token's, or the mean of several.

    `weights` N are the shares of the tokens in it; `patch` is the row and column where it is one patch.
    """

    name: str
    weights: Tensor
    patch: tuple[int, int] | None

    @property
    def phrase(self) -> str:
        """Its name inside a sentence."""
        return f"the {self.name}" if self.patch is None else self.name


def query_names(arch: Architecture) -> list[str]:
    """All that can be chosen: the tokens before the patches, the mean over patches, each patch."""
    names, prefix = token_names(arch), len(arch.prefix_names)
    return [*(f"{name} token" for name in names[:prefix]), PATCH_MEAN, *names[prefix:]]


def query(arch: Architecture, name: str) -> Query:
    """One of `query_names`."""
    if name == PATCH_MEAN:
        return Query(name, mean_of_patches(arch), None)
    place, prefix = query_names(arch).index(name), len(arch.prefix_names)
    if place < prefix:
        return Query(name, one_token(arch, place), None)
    patch = place - prefix - 1  # the mean stands between the prefix tokens and the patches
    return Query(name, one_token(arch, prefix + patch), divmod(patch, arch.grid[1]))
