"""Image sets: where images come from, how they are divided, labelled and batched."""
