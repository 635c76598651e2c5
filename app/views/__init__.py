"""The pages, in the order of the work; thin: they lay out, analysis and pruning compute."""
