"""The pages. They lay out and draw; what they show is computed in `analysis` and `pruning`."""
