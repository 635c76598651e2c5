"""Models of Hugging Face transformers: folders, Trainer checkpoints and ids of the hub."""

from analysis.models.huggingface.config import CONFIG_FILE
from analysis.models.huggingface.hub import hub_folder
from analysis.models.huggingface.source import (
    is_transformers_folder,
    load_transformers,
    transformers_architecture,
)

__all__ = [
    "CONFIG_FILE",
    "hub_folder",
    "is_transformers_folder",
    "load_transformers",
    "transformers_architecture",
]
