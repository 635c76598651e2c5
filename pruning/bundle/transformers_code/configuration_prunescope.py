"""The configuration of a Vision Transformer that PruneScope made smaller."""

from __future__ import annotations

import json
from typing import Any

from transformers import PretrainedConfig

from analysis.vit import Architecture


class PruneScopeConfig(PretrainedConfig):
    """`vit_architecture` holds the fields of `Architecture` in vit.py, such as the widths of every block.

    The number of classes is that of the labels: `from_pretrained(..., num_labels=5)` gives a new head.
    """

    model_type = "prunescope"

    def __init__(self, vit_architecture: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vit_architecture = vit_architecture

    def read(self, **changes: Any) -> Architecture:
        """The architecture, with some of its fields changed.

        Raises:
            ValueError: there is none, or it is no network.
        """
        if self.vit_architecture is None:
            raise ValueError("this configuration has no vit_architecture: load it with from_pretrained")
        return Architecture.from_json(json.dumps(self.vit_architecture | changes))
