"""Reads a Vision Transformer, never changes it."""
