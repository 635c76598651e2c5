"""Makes a smaller Vision Transformer, never changes the one it is given."""

import analysis  # noqa: F401  # sets torch and torchvision up before a module here imports them
