"""Matrix products as some processors compute them: a square one is not symmetric in its last bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

_PRODUCTS = ("matmul", "mm", "bmm", "einsum")


def make_products_rough(patch: pytest.MonkeyPatch) -> None:
    """Raise every value below the diagonal of every square product by one unit in the last place.

    Not zeros: sums of zeros are exact everywhere.
    """
    for name in _PRODUCTS:
        patch.setattr(torch, name, _rough(getattr(torch, name)))
        if hasattr(Tensor, name):
            patch.setattr(Tensor, name, _rough(getattr(Tensor, name)))
    patch.setattr(Tensor, "__matmul__", _rough(Tensor.__matmul__))


def _rough(multiply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rough(*arguments: object) -> Tensor:
        product = multiply(*arguments)
        if product.ndim < 2 or product.shape[-1] != product.shape[-2] or not product.is_floating_point():
            return product
        exact = product.detach()
        up = torch.nextafter(exact, torch.full_like(exact, torch.inf)) - exact
        return product + up.tril(-1) * (exact != 0)  # an exact sum, and gradients pass

    return rough
