"""The Prune page."""
