"""The first page: the demo, or a model of the user's own."""
