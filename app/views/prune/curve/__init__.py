"""The curve of the Prune page: compute against accuracy, or predicted damage."""
