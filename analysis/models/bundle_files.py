"""The files that a bundle cannot do without, by name; `pruning.bundle` adds those that it writes besides."""

from __future__ import annotations

ARCHITECTURE_FILE = "architecture.json"
PREPROCESS_FILE = "preprocess.json"
WEIGHTS_FILE = "model.safetensors"
REQUIRED_FILES = (ARCHITECTURE_FILE, PREPROCESS_FILE, WEIGHTS_FILE)
IN_FULL = ".rope"  # ends the names of tensors that stay float32 in a bundle of float16: angles
