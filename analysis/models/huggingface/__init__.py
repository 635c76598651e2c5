"""Models of the Hugging Face hub: ids, and folders of transformers, of its Trainer and of timm."""

from analysis.models.huggingface.config import CONFIG_FILE
from analysis.models.huggingface.hub import hub_folder
from analysis.models.huggingface.source import (
    is_transformers_folder,
    load_transformers,
    transformers_architecture,
)
from analysis.models.huggingface.timm_folder import load_timm_folder, timm_folder_architecture, timm_name

__all__ = [
    "CONFIG_FILE",
    "hub_folder",
    "is_transformers_folder",
    "load_timm_folder",
    "load_transformers",
    "timm_folder_architecture",
    "timm_name",
    "transformers_architecture",
]
