"""Finished runs side by side in one HTML file."""
