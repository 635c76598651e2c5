"""Ratios, plans and head locks, and the surgery that cuts a model by a plan."""

from pruning.cut.head_locks import Head, HeadLocks, format_heads, parse_heads
from pruning.cut.plan import Indices, Plan, kept_heads, require_indices, within_heads
from pruning.cut.ratios import (
    MOST_ALIGN,
    PerBlock,
    Ratios,
    preset_ratios,
    presets,
    require_align,
    require_narrowed,
    shrink,
)
from pruning.cut.selection import Scores, heads_only, select
from pruning.cut.surgery import cut, mask, plan_gates, stream_axis

__all__ = [
    "MOST_ALIGN",
    "Head",
    "HeadLocks",
    "Indices",
    "PerBlock",
    "Plan",
    "Ratios",
    "Scores",
    "cut",
    "format_heads",
    "heads_only",
    "kept_heads",
    "mask",
    "parse_heads",
    "plan_gates",
    "preset_ratios",
    "presets",
    "require_align",
    "require_indices",
    "require_narrowed",
    "select",
    "shrink",
    "stream_axis",
    "within_heads",
]
