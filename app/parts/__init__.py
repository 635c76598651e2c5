"""Widgets and pictures that several pages show."""
