"""Keys that move through images, blocks and heads, and the list of them behind `?`."""
