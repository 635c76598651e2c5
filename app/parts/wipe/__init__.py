"""Two pictures of one size over each other, and a line between them that is dragged to compare them."""
