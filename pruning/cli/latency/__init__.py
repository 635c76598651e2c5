"""The commands about latency: `bench` on this machine, `kit` for others."""
