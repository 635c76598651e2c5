"""Widths for a budget: how sensitive the model is to each, and what to give up where."""
