"""All pruning methods by name."""

from __future__ import annotations

from pruning.criteria import CRITERIA
from pruning.methods.gohsp import Gohsp
from pruning.methods.method import Method
from pruning.methods.selection import Selection
from pruning.methods.spectral import Spectral
from pruning.methods.tokens import Tokens

METHODS: dict[str, Method] = {
    **{name: Selection(criterion) for name, criterion in CRITERIA.items()},
    "spectral": Spectral(),
    "gohsp": Gohsp(),
    "tokens": Tokens(),
}
