"""Heads that go before a method works inside the others: the locked ones, and a criterion's lowest."""

from __future__ import annotations

from dataclasses import replace

from analysis.vit import Architecture
from pruning.criteria import CRITERIA
from pruning.cut import Plan, select
from pruning.methods.method import Task


def heads_only(dense: Architecture, target: Architecture) -> Architecture:
    """The dense architecture with as many heads as `target`, and nothing else removed."""
    pairs = zip(dense.blocks, target.blocks, strict=True)
    return replace(dense, blocks=tuple(replace(block, heads=left.heads) for block, left in pairs))


def heads_first(task: Task, target: Architecture) -> Plan | None:
    """The plan that removes heads alone; None where none go first.

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
