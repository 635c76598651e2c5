"""Pruning methods, behind one protocol."""

from pruning.methods.method import Made, Method, Request, Survey, Task, require_narrowing
from pruning.methods.registry import METHODS
from pruning.methods.sensitivities import SURVEY_STEPS

__all__ = ["METHODS", "SURVEY_STEPS", "Made", "Method", "Request", "Survey", "Task", "require_narrowing"]
