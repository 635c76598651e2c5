"""What is marked on a picture: the patch that was clicked, the outline of an object."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Marks:
    """What is drawn over the pictures."""

    lines: bool
    outline: bool
