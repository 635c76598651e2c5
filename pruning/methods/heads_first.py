"""Removing whole heads before a method prunes inside the others: locked heads, or a criterion's lowest."""

from __future__ import annotations

from dataclasses import replace

from analysis.vit import Architecture
from pruning.criteria import CRITERIA
from pruning.cut import Plan, select
from pruning.methods.method import Task


def heads_only(dense: Architecture, target: Architecture) -> Architecture:
    """The dense architecture with the head counts of `target`, and all other widths unchanged."""
    pairs = zip(dense.blocks, target.blocks, strict=True)
    return replace(dense, blocks=tuple(replace(block, heads=after.heads) for block, after in pairs))


def heads_first(task: Task, target: Architecture) -> Plan | None:
    """The plan that removes whole heads first; None if there are none.

    Raises:
        ValueError: the locks do not fit the model.
    """
    request, arch = task.request, task.dense.model.arch
    if request.heads_by is None:
        return task.locked
    criterion = CRITERIA[request.heads_by]
    ranking = replace(task, request=replace(request, options=criterion.options()))
    scores = criterion.score(task.dense.model, ranking.batches("Scoring heads"), criterion.options())
    return select(scores, arch, heads_only(arch, target), request.locks)
