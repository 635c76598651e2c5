"""Makes a smaller Vision Transformer, never changes the one it is given."""
