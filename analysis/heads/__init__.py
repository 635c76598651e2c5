"""What single heads are worth, which are alike, and how far measures of them agree."""
