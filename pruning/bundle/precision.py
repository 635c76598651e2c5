"""The precision that a model's bundle will have, applied before the model is evaluated."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from analysis.models import IN_FULL, LoadedModel
from pruning.progress import Monitor


def rounded(made: LoadedModel, dtype: str | None, monitor: Monitor) -> LoadedModel:
    """A model with the weights that it will have when it is read back from a bundle in `dtype`.

    `dtype` is one of `DTYPES`; None keeps the precision that the model came in. Accuracy is measured on what
    this returns, so that it is the accuracy of the bundle. A model with weights beyond the range of
    float16 stays in float32, which the monitor is told: hours of training are not given up for that.
    """
    if not (made.half if dtype is None else dtype == "float16"):
        return replace(made, half=False)
    state = {
        name: value if name.endswith(IN_FULL) else value.half().float()
        for name, value in made.model.state_dict().items()
    }
    beyond = next((name for name, value in state.items() if not value.isfinite().all()), None)
    if beyond is not None:
        monitor.note(f"{beyond} has values beyond the range of float16, so the bundle is in float32")
        return replace(made, half=False)
    model = copy.deepcopy(made.model)
    with torch.no_grad():
        model.load_state_dict(state)
    return replace(made, model=model, half=True)
