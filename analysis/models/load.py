"""Load a model by name: the demo, timm, the Hugging Face hub, local weights, bundles, transformers folders.

Whatever the source, the result is a `ViT` with its preprocessing; no later step depends on timm.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from analysis.formats import in_file, read_text
from analysis.models.bundle_files import ARCHITECTURE_FILE, PREPROCESS_FILE, REQUIRED_FILES, WEIGHTS_FILE
from analysis.models.convert import UnsupportedModelError, architecture_of, from_timm
from analysis.models.huggingface import (
    CONFIG_FILE,
    hub_folder,
    is_transformers_folder,
    load_timm_folder,
    load_transformers,
    timm_folder_architecture,
    timm_name,
    transformers_architecture,
)
from analysis.models.preprocess import CHANNELS, Preprocess
from analysis.models.reading import Named, Reading
from analysis.models.recognize import fitting_names
from analysis.models.timm_source import HUB, FromTimm, is_timm, load_timm, skeleton
from analysis.models.weights import is_half, read_weights, require_header
from analysis.outputs import task_of
from analysis.paths import is_file, may_be_path, user_path
from analysis.vit import Architecture, ViT

__all__ = [
    "DEMO",
    "LoadedModel",
    "UnsupportedModelError",
    "architecture",
    "from_timm",
    "load",
    "load_named",
    "read_bundle",
    "suggested",
]

MOST_ARCHITECTURE_BYTES = 2**20
MOST_LISTED = 1000  # files of a folder that are looked at
WEIGHTS_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".npz")  # DINO's end in .pth.tar
DEMO = Path(__file__).resolve().parents[2] / "assets" / "demo"


@dataclass(frozen=True)
class LoadedModel:
    """A model in evaluation mode and float32, its preprocessing, and the source it was loaded from.

    `half` says whether the bundle it came from holds its weights in half precision (float16).
    `notes` say what was chosen, assumed or left out when it was loaded: a sentence each.
    """

    model: ViT
    preprocess: Preprocess
    name: str
    source: str
    half: bool = False
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """What it is for: "classify", or "features" without a classifier."""
        return task_of(self.model)


def suggested() -> tuple[str, ...]:
    """Model names to suggest to the user, the demo first; tests cover all of them."""
    return (
        "demo",
        "deit_tiny_patch16_224",
        "deit_small_patch16_224",
        "deit_base_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "vit_tiny_patch16_224",
        "vit_small_patch16_224",
        "vit_small_patch32_224",
        "vit_base_patch16_224",
        "vit_base_patch32_224",
        "vit_base_patch16_clip_224",
        "vit_small_patch14_dinov2",
        "vit_small_patch14_reg4_dinov2",
    )


def load(name: str, weights: Path | None = None, reading: Reading = Reading()) -> LoadedModel:
    """Load a model by name: "demo", a timm name, "hf-hub:...", or a folder: a bundle or a transformers model.

    Without `weights`, those on the hub are used. What `reading` leaves out is decided by the files.

    Raises:
        ValueError: unknown name, weights that are unavailable or do not fit, or a broken bundle.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    folder = _bundle_folder(name)
    other = _transformers_folder(name, folder, with_weights=True)
    if other is not None and is_file(other / ARCHITECTURE_FILE):
        folder, other = other, None  # a bundle from the hub
    if other is not None:
        if weights is not None:
            raise ValueError(f"{name} has its own weights; leave that option out")
        model, preprocess, source, notes = load_transformers(
            other, name, reading.image_size, reading.num_classes
        )
        loaded = LoadedModel(model, preprocess, name, source, notes=notes)
    elif folder is None:
        found = _from_timm(name, weights, reading)
        loaded = LoadedModel(found.model, found.preprocess, name, found.source, notes=found.notes)
    elif (architecture_name := _timm_name(folder)) is not None:
        if weights is not None:
            raise ValueError(f"{name} has its own weights; leave that option out")
        found = load_timm_folder(folder, architecture_name, reading.image_size, reading.num_classes)
        loaded = LoadedModel(found.model, found.preprocess, name, found.source, notes=found.notes)
    elif weights is not None or reading.of_bundle() != reading:
        raise ValueError(
            f"{name} has its own weights, image size and classes; leave those options out "
            "(--num-classes 0 leaves the classifier out)"
        )
    else:
        loaded = replace(read_bundle(folder), name=name)
        if reading.num_classes == 0:
            loaded = _without_classifier(loaded)
    classes = loaded.model.arch.num_classes
    preprocess = reading.applied(loaded.preprocess, classes)
    if loaded.preprocess.labels and preprocess.labels != loaded.preprocess.labels:
        note = "the model's own class names are replaced by those that were given"
        loaded = replace(loaded, notes=(*loaded.notes, note))
    return replace(loaded, preprocess=preprocess)


def _from_timm(name: str, weights: Path | None, reading: Reading) -> FromTimm:
    """As `load_timm`; where weights do not fit the name, those that they fit are told."""
    try:
        return load_timm(name, weights, reading.image_size, reading.num_classes)
    except UnsupportedModelError:
        raise
    except ValueError as error:
        fitting: tuple[str, ...] = ()
        if weights is not None and is_timm(name):
            with suppress(ValueError):  # what is wrong with the file is said already
                fitting = fitting_names(weights)
        if not fitting or name.partition(".")[0] in fitting:
            raise
        raise ValueError(f"{error}; as the model, give what they fit: {' or '.join(fitting[:3])}") from error


def load_named(named: Named) -> LoadedModel:
    """Load one of several models that share a reading, of which a bundle takes what `of_bundle` leaves.

    Raises:
        ValueError: as `load`.
    """
    weights = Path(named.weights) if named.weights else None
    folder = _bundle_folder(named.model)
    is_bundle = folder is not None and is_file(folder / ARCHITECTURE_FILE)
    reading = named.reading.of_bundle() if is_bundle else named.reading
    return load(named.model, weights, reading)


def architecture(name: str, reading: Reading = Reading()) -> Architecture:
    """The architecture of a model by name, without its weights; only "hf-hub:" names need the network.

    Raises:
        ValueError: unknown name, or a broken bundle.
        UnsupportedModelError: the model is not a plain Vision Transformer.
    """
    folder = _bundle_folder(name)
    other = _transformers_folder(name, folder, with_weights=False)
    if other is not None and is_file(other / ARCHITECTURE_FILE):
        folder, other = other, None  # a bundle from the hub
    if other is not None:
        return transformers_architecture(other, name, reading.image_size, reading.num_classes)
    if folder is None:
        return architecture_of(skeleton(name, reading.image_size, reading.num_classes))
    if (architecture_name := _timm_name(folder)) is not None:
        return timm_folder_architecture(folder, architecture_name, reading.image_size, reading.num_classes)
    if reading.of_bundle() != reading:
        raise ValueError(
            f"{name} has its own image size and classes; leave those options out "
            "(--num-classes 0 leaves the classifier out)"
        )
    arch = _bundle_architecture(folder)
    return replace(arch, num_classes=0) if reading.num_classes == 0 else arch


def _without_classifier(loaded: LoadedModel) -> LoadedModel:
    """The same model, whose output is its pooled feature; the class names go with the classifier."""
    state = loaded.model.state_dict()
    with torch.device("meta"):
        model = ViT(replace(loaded.model.arch, num_classes=0))
    model.load_state_dict({name: state[name] for name in model.state_dict()}, assign=True)
    return replace(loaded, model=model.eval(), preprocess=replace(loaded.preprocess, labels=()))


def read_bundle(folder: Path) -> LoadedModel:
    """Read a bundle's architecture, preprocessing and weights, these cast to float32.

    Raises:
        ValueError: a file is missing, cannot be read, or does not fit the others.
    """
    arch = _bundle_architecture(folder)
    preprocess = _bundle_preprocess(folder, arch)
    with torch.device("meta"):  # no memory is taken before the weights are known to fit
        model = ViT(arch)
    state = read_weights(folder / WEIGHTS_FILE, model.state_dict())
    model.load_state_dict(state, assign=True)
    source = "embedded demo" if folder == DEMO else f"bundle {folder}"
    return LoadedModel(model.eval(), preprocess, str(folder), source, is_half(folder / WEIGHTS_FILE))


def require_bundle(folder: Path) -> None:
    """Check the files of a bundle as `read_bundle` does, but for the values of its weights.

    Raises:
        ValueError: as `read_bundle`.
    """
    arch = _bundle_architecture(folder)
    _bundle_preprocess(folder, arch)
    with torch.device("meta"):
        model = ViT(arch)
    require_header(folder / WEIGHTS_FILE, model.state_dict())


def _bundle_preprocess(folder: Path, arch: Architecture) -> Preprocess:
    if arch.in_channels != CHANNELS:
        raise ValueError(
            f"{folder / ARCHITECTURE_FILE}: in_channels must be {CHANNELS}, as images are read as RGB, "
            f"got {arch.in_channels}"
        )
    file = folder / PREPROCESS_FILE
    preprocess = Preprocess.read(file)
    if preprocess.image_size != arch.image_size:
        raise ValueError(
            f"{file} must have the image_size of {ARCHITECTURE_FILE}, "
            f"{arch.image_size}, got {preprocess.image_size}"
        )
    if len(preprocess.labels) not in (0, arch.num_classes):
        raise ValueError(
            f"{file} must name all {arch.num_classes} classes or none, got {len(preprocess.labels)} labels"
        )
    return preprocess


def _timm_name(folder: Path) -> str | None:
    """The timm name of the model in a folder that timm wrote; None for all others."""
    return None if is_file(folder / ARCHITECTURE_FILE) else timm_name(folder)


def _bundle_folder(name: str) -> Path | None:
    """The bundle folder that a name refers to, or None for a timm or hub name."""
    if name == "demo":
        return DEMO
    if not name or name.startswith(HUB):
        return None
    if not may_be_path(name):
        return None
    folder = user_path(name, "the model")
    is_path = name in (".", "..") or "/" in name or "\\" in name
    if is_file(folder) and (is_path or not is_timm(name)):
        if folder.suffix == ".zip":
            raise ValueError(f"{folder} is an archive: unpack it, and give its folder as the model")
        raise ValueError(
            f"{folder} is a file: give it as the weights, and the timm name of its model as the model"
        )
    if is_path or any((folder / file).is_file() for file in (ARCHITECTURE_FILE, CONFIG_FILE)):
        return folder
    return folder if folder.is_dir() and not is_timm(name) else None


def _transformers_folder(name: str, folder: Path | None, *, with_weights: bool) -> Path | None:
    """The folder of a transformers model that a name refers to, or None for all other names."""
    if folder is None:
        return hub_folder(name, with_weights=with_weights) if name.startswith(HUB) else None
    if is_file(folder / ARCHITECTURE_FILE) or not is_transformers_folder(folder):
        return None
    return folder


def _weights_in(folder: Path) -> Path | None:
    """A file in a folder, among the first, that is called as weights are."""
    found: list[Path] = []
    with suppress(OSError):  # it may not be listed
        found = sorted(
            file for file in islice(folder.iterdir(), MOST_LISTED) if file.suffix in WEIGHTS_ENDINGS
        )
    return next((file for file in found if is_file(file)), None)


def _bundle_architecture(folder: Path) -> Architecture:
    missing = [file for file in REQUIRED_FILES if not (folder / file).is_file()]
    if folder == DEMO and missing:
        raise ValueError(
            f"the embedded demo model is incomplete: {DEMO} has no {missing[0]}; restore that folder"
        )
    if not folder.is_dir():
        page = re.search(r"\bhuggingface\.co/([\w.-]+/[\w.-]+)$", str(folder))
        named = f"{HUB}{page[1]}" if page else f"{HUB}OWNER/NAME"
        raise ValueError(
            f"there is no bundle folder at {folder}; write hub names as {named} and timm names without '/'"
        )
    foreign = not any(is_file(folder / file) for file in (ARCHITECTURE_FILE, PREPROCESS_FILE, CONFIG_FILE))
    if foreign and (file := _weights_in(folder)):
        raise ValueError(
            f"{folder} holds neither {ARCHITECTURE_FILE} (a bundle) nor {CONFIG_FILE} (of transformers or "
            f"timm): as the model give its timm name, and {file} as its weights"
        )
    if is_file(folder / CONFIG_FILE) and not is_file(folder / ARCHITECTURE_FILE):
        raise ValueError(
            f"{folder / CONFIG_FILE} names neither a model_type (transformers) nor an architecture (timm): "
            "as the model give a timm name, and the file of weights as its weights"
        )
    if missing:
        raise ValueError(
            f"{folder} is not a bundle: it must hold {', '.join(REQUIRED_FILES)}, {missing[0]} is not there"
        )
    file = folder / ARCHITECTURE_FILE
    text = read_text(file, MOST_ARCHITECTURE_BYTES)
    try:
        return Architecture.from_json(text)
    except ValueError as error:
        raise in_file(file, error) from error
