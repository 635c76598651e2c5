"""What makes a bundle a model of Hugging Face transformers, too: its configuration and code around vit.py.

`AutoModel...from_pretrained(folder, trust_remote_code=True)` then loads it without this project.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from analysis.models import Preprocess
from analysis.vit import Architecture
from pruning.bundle.layout import CONFIG_FILE, PROCESSOR_FILE, TRANSFORMERS_CODE

_CODE = Path(__file__).parent / "transformers_code"
_IMPORT = re.compile(
    r"^from (?:analysis|pruning\.bundle(?:\.transformers_code)?)\.(\w+) import", re.MULTILINE
)
_RESAMPLING = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's codes


def transformers_texts(arch: Architecture, preprocess: Preprocess) -> dict[str, str]:
    """The files beside those of the bundle, by name."""
    code = {name: (_CODE / name).read_text(encoding="utf-8") for name in TRANSFORMERS_CODE}
    # there the files lie side by side
    return {name: _IMPORT.sub(r"from .\1 import", text) for name, text in code.items()} | {
        CONFIG_FILE: _json(_config(arch, preprocess)),
        PROCESSOR_FILE: _json(_processor(preprocess)),
    }


def _config(arch: Architecture, preprocess: Preprocess) -> dict[str, Any]:
    names = dict(enumerate(preprocess.labels or (f"LABEL_{index}" for index in range(arch.num_classes))))
    labels = {
        "id2label": {str(index): name for index, name in names.items()},
        "label2id": {name: index for index, name in names.items()},
    }
    classes = {
        "AutoModel": "PruneScopeModel",
        "AutoModelForImageClassification": "PruneScopeForImageClassification",
    }
    own = classes["AutoModelForImageClassification" if arch.num_classes else "AutoModel"]
    return {
        "model_type": "prunescope",
        "architectures": [own],
        "auto_map": {"AutoConfig": "configuration_prunescope.PruneScopeConfig"}
        | {auto: f"modeling_prunescope.{name}" for auto, name in classes.items()},
        "dtype": "float32",  # else weights that are stored in float16 would stay so
        "vit_architecture": json.loads(arch.to_json()),
        **(labels if arch.num_classes else {}),
    }


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    """The settings of our processor, and the nearest that a processor of transformers has.

    That is taken where code from the folder is not trusted, and by tools that read the settings.
    """
    rows, columns = (math.floor(side / preprocess.crop_pct) for side in preprocess.image_size)
    keeps_shape = preprocess.crop_mode == "center"
    own = json.loads(preprocess.to_json())
    return {
        "image_processor_type": "CLIPImageProcessor",
        "auto_map": {"AutoImageProcessor": "image_processing_prunescope.PruneScopeImageProcessor"},
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": min(rows, columns)} if keeps_shape else {"height": rows, "width": columns},
        "resample": _RESAMPLING[preprocess.interpolation],
        "do_center_crop": True,
        "crop_size": dict(zip(("height", "width"), preprocess.image_size, strict=True)),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "prunescope": {name: value for name, value in own.items() if name not in ("labels", "version")},
    }


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"
