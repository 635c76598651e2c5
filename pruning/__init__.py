"""Prune Vision Transformers; the model passed in is never changed."""
