"""Jobs: everything a run depends on as data, and the functions that carry them out."""
