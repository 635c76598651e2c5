"""Bundles and exports: a model in files that load without this project."""
