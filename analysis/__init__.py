"""Analyse Vision Transformers without changing them."""
