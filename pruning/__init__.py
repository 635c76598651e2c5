"""Prune Vision Transformers; the model passed in is never changed.

As a library: `from pruning import evaluate, load, prune, save` (pruning/library.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pruning.library import evaluate, load, prune, save

__all__ = ["evaluate", "load", "prune", "save"]


def __getattr__(name: str) -> Any:
    """The four functions, imported when they are asked for: the command line sets the process up before."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pruning import library

    return getattr(library, name)
