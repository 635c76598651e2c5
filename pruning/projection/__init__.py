"""Training-free projection: the best subspaces of each structure, and least-squares refits."""
