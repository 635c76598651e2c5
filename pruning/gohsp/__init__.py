"""GOHSP: heads ranked by a graph, training towards the structure that stays (ADMM), the cut."""
