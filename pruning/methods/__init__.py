"""Pruning methods, behind one protocol."""

from pruning.methods.method import Made, Method, Request, Survey, Task, require_narrowing
from pruning.methods.registry import METHODS

__all__ = ["METHODS", "Made", "Method", "Request", "Survey", "Task", "require_narrowing"]
