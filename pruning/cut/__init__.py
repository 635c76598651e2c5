"""Ratios, plans and head locks, and the surgery that cuts a model by a plan."""

from pruning.cut.head_locks import Head, HeadLocks, format_heads, parse_heads
from pruning.cut.plan import BlockPlan, Indices, Plan, kept_heads, require_indices, within_heads
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
from pruning.cut.shorter import (
    Half,
    Tokens,
    absent,
    at_most_half,
    can_merge,
    merges_of,
    set_merges,
    unmerged,
    with_architecture,
    with_merges,
    without_halves,
)
from pruning.cut.surgery import cut, mask, plan_gates, stream_axis

__all__ = [
    "MOST_ALIGN",
    "BlockPlan",
    "Half",
    "Head",
    "HeadLocks",
    "Indices",
    "PerBlock",
    "Plan",
    "Ratios",
    "Scores",
    "Tokens",
    "absent",
    "at_most_half",
    "can_merge",
    "cut",
    "format_heads",
    "heads_only",
    "kept_heads",
    "mask",
    "merges_of",
    "parse_heads",
    "plan_gates",
    "preset_ratios",
    "presets",
    "require_align",
    "require_indices",
    "require_narrowed",
    "select",
    "set_merges",
    "shrink",
    "stream_axis",
    "unmerged",
    "with_architecture",
    "with_merges",
    "within_heads",
    "without_halves",
]
