"""A Vision Transformer that PruneScope made smaller, as a model of Hugging Face transformers.

The network itself is vit.py in this folder; its state dict has the names that vit.py has, behind `vit.`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput

from analysis.vit import ViT, spread
from pruning.bundle.transformers_code.configuration_prunescope import PruneScopeConfig


class _Network(ViT):
    @property
    def device(self) -> torch.device:
        """Where the weights are, which transformers 4 asks while it loads them."""
        return self.pos_embed.device


class _PruneScopeModel(PreTrainedModel):
    config_class = PruneScopeConfig
    base_model_prefix = "vit"  # files from PruneScope have names without it, those of save_pretrained with it
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _no_split_modules = ("Block",)

    vit: ViT

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise a layer that no file has weights for, such as the head of another number of classes."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class PruneScopeModel(_PruneScopeModel):
    """The model without its classifier."""

    _keys_to_ignore_on_load_unexpected = (r"^(vit\.)?head(_dist)?\.",)

    def __init__(self, config: PruneScopeConfig) -> None:
        super().__init__(config)
        # every token is computed, also those that a classifier would not read
        self.vit = _Features(config.read(num_classes=0, skip_unread=False))
        self.post_init()

    def forward(
        self, pixel_values: Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:
        """Images B C Y X -> `last_hidden_state` B N E behind the last norm, and `pooler_output` B E.

        N are the prefix tokens and one for each patch: patches that have merged all have the token that they
        became. `pooler_output` is what the classifier would read. Models that normalise after pooling have no
        norm on `last_hidden_state`.
        """
        tokens, pooled = self.vit(pixel_values)
        if return_dict is False:
            return tokens, pooled
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)


class PruneScopeForImageClassification(_PruneScopeModel):
    """The model with its classifier."""

    def __init__(self, config: PruneScopeConfig) -> None:
        super().__init__(config)
        self.vit = _Network(config.read(num_classes=config.num_labels))
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Images B C Y X -> `logits` B K; with `labels` (B whole numbers, or B K numbers) also the `loss`."""
        logits = self.vit(pixel_values)
        loss = None if labels is None else _loss(logits, labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)


class _Features(_Network):
    """The network with its tokens and their pooled feature in place of logits."""

    def forward(self, images: Tensor) -> Any:
        x, sizes = self.embed(images), None
        places: list[Tensor] = []
        for block in self.blocks:
            x, sizes = block(x, sizes, places=places)
        return spread(self.norm(x), places), self.classify(x, sizes)


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy; binary cross-entropy where each image has a number for every class."""
    labels = labels.to(logits.device)
    if labels.ndim == logits.ndim:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
    return torch.nn.functional.cross_entropy(logits, labels)
