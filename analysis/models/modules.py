"""Models that a program has in memory: of `vit.py`, of timm, or of Hugging Face transformers."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from typing import Any

from analysis.models.convert import from_timm
from analysis.models.load import LoadedModel, load
from analysis.models.preprocess import Preprocess
from analysis.models.timm_source import preprocess_of
from analysis.vit import ViT


def load_module(module: Any) -> LoadedModel:
    """A module as a `ViT` with its preprocessing, checked to compute the same where it is timm's.

    The module is left as it is; a `ViT` is taken itself. Of one of transformers the configuration and the
    weights are read as if they came from a folder.

    Raises:
        UnsupportedModelError: it is not a plain Vision Transformer.
        ValueError: as `load`.
    """
    name = type(module).__name__
    if isinstance(module, ViT):
        return LoadedModel(module, Preprocess(module.arch.image_size), name, "a module")
    if hasattr(module, "save_pretrained") and hasattr(module, "config"):
        with tempfile.TemporaryDirectory() as folder:
            module.save_pretrained(folder)
            found = load(folder)
        name = getattr(module, "name_or_path", "") or name
        notes = tuple(note.replace(folder, name) for note in found.notes)
        return replace(found, name=name, source=found.source.replace(folder, name), notes=notes)
    vit = from_timm(module)
    config = getattr(module, "pretrained_cfg", None) or {}
    name = str(config.get("architecture") or name)
    return LoadedModel(vit, preprocess_of(config, vit.arch), name, "a module of timm")
