"""What a model costs and how well it does: parameters, MACs, latency, accuracy and its interval."""
