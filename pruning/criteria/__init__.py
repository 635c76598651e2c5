"""Criteria: what each part of a model is worth, by name."""
