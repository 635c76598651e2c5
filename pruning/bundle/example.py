"""Classify a photo with the model in this folder, or see its features: python example.py photo.jpg

A model without a classifier gives a pooled feature, and tokens of all patches (`features`). Needs torch,
safetensors and pillow. `vit.py` in this folder defines the model, `preprocess.json` says how a
photo is turned into its input.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

FOLDER = Path(__file__).resolve().parent


def main() -> int:
    """Print the five most likely classes of the photo given on the command line, or what its features are."""
    if len(sys.argv) != 2:
        print("usage: python example.py photo.jpg", file=sys.stderr)
        return 2
    try:
        image = read(Path(sys.argv[1]))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        print(f"{sys.argv[1]} cannot be read as an image: {error}", file=sys.stderr)
        return 2
    if not load_model().arch.num_classes:
        pooled, tokens = features(image)
        shown = " ".join(f"{value:.3f}" for value in pooled[:6].tolist())
        print(f"pooled feature: {len(pooled)} numbers, {shown} ...")
        print(f"tokens, those of patches last: {len(tokens)}, each of {tokens.shape[1]} numbers")
        return 0
    for label, probability in classify(image):
        print(f"{100 * probability:5.1f} %  {label}")
    return 0


def classify(image: Image.Image, top: int = 5) -> list[tuple[str, float]]:
    """The `top` most likely classes with their probabilities, best first; ties go to the lower index."""
    settings = json.loads((FOLDER / "preprocess.json").read_text(encoding="utf-8"))
    with torch.inference_mode():
        probabilities = load_model()(preprocess(image, settings)[None]).softmax(dim=-1)[0]
    best = probabilities.sort(descending=True, stable=True)
    labels = settings["labels"] or [f"class {index}" for index in range(len(probabilities))]
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [(labels[index], probability) for index, probability in pairs][:top]


def features(image: Image.Image) -> tuple[Tensor, Tensor]:
    """Pooled feature E, and tokens N E behind the last norm, those of the patches last, row by row."""
    settings = json.loads((FOLDER / "preprocess.json").read_text(encoding="utf-8"))
    model, images = load_model(), preprocess(image, settings)[None]
    with torch.inference_mode():
        return model(images)[0], model.forward_features(images)[0]


def load_model() -> Any:
    """The model in evaluation mode, in float32."""
    if str(FOLDER) not in sys.path:  # as under `python -P`
        sys.path.insert(0, str(FOLDER))
    vit = importlib.import_module("vit")  # the file in this folder
    architecture = (FOLDER / "architecture.json").read_text(encoding="utf-8")
    model = vit.ViT(vit.Architecture.from_json(architecture)).eval()
    model.load_state_dict(load_file(FOLDER / "model.safetensors"))
    return model


def read(path: Path) -> Image.Image:
    """Read a photo as RGB, upright, with transparent parts in white."""
    return upright(Image.open(path))


def upright(image: Image.Image) -> Image.Image:
    """An image turned as its metadata say, as RGB, with transparent parts in white."""
    image = ImageOps.exif_transpose(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white


def preprocess(image: Image.Image, settings: dict[str, Any]) -> Tensor:
    """Resize, crop and normalise an RGB image as timm does in evaluation: C Y X."""
    rows, columns = settings["image_size"]
    target = math.floor(rows / settings["crop_pct"]), math.floor(columns / settings["crop_pct"])
    fill = (0, 0, 0)
    if settings["crop_mode"] == "border":
        fill = tuple(round(255 * value) for value in settings["mean"])
    size = resized(image, target, settings["crop_mode"])
    method = Image.Resampling[settings["interpolation"].upper()]
    image = centre(image.resize(size, method), columns, rows, fill)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    values = pixels.view(rows, columns, 3).permute(2, 0, 1).contiguous().float() / 255
    mean, std = torch.tensor(settings["mean"]), torch.tensor(settings["std"])
    return (values - mean[:, None, None]) / std[:, None, None]


def resized(image: Image.Image, target: tuple[int, int], crop_mode: str) -> tuple[int, int]:
    """Width and height to resize to, for a target size in rows and columns."""
    rows, columns = target
    if crop_mode == "squash":
        return columns, rows
    if crop_mode == "center" and rows == columns:  # torchvision truncates where timm rounds
        short = min(image.size)
        width, height = (rows if side == short else int(rows * side / short) for side in image.size)
        return width, height
    ratios = image.height / rows, image.width / columns
    ratio = max(ratios) if crop_mode == "border" else min(ratios)
    return round(image.width / ratio), round(image.height / ratio)


def centre(image: Image.Image, width: int, height: int, fill: tuple[int, ...]) -> Image.Image:
    """Crop the centre of an image; where the image is too small, pad both sides with `fill`."""
    wide, high = max(0, width - image.width), max(0, height - image.height)
    if wide or high:
        border = (wide // 2, high // 2, (wide + 1) // 2, (high + 1) // 2)
        image = ImageOps.expand(image, border, fill)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


if __name__ == "__main__":
    sys.exit(main())
