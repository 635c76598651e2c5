"""What an `Architecture` is, what it refuses, and how it is stored."""

from __future__ import annotations

import json
import re
import tracemalloc
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import pytest

from analysis.architecture import VERSION
from analysis.vit import Architecture, BlockWidths
from tests.support.edits import require_refused
from tests.support.models import TINY, VARIANTS


def test_architecture_survives_json() -> None:
    for arch in VARIANTS.values():
        again = Architecture.from_json(arch.to_json())
        assert again == arch and hash(again) == hash(arch)


def test_architectures_from_before_rms_norms_are_read() -> None:
    data = json.loads(TINY.to_json())
    assert data.pop("norm") == "layer"
    assert Architecture.from_json(json.dumps(data)) == TINY


def test_architectures_from_before_there_was_a_version_are_read() -> None:
    data = json.loads(TINY.to_json())
    assert data.pop("version") == VERSION == 3
    assert list(data) == [field.name for field in fields(Architecture)]  # nothing else has changed
    assert Architecture.from_json(json.dumps(data)) == TINY
    with pytest.raises(
        ValueError, match=r"^this was written by a later PruneScope \(version 4; this one reads up"
    ):
        Architecture.from_json(json.dumps(data | {"version": 4, "tokens": 3}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "this cannot be read as JSON: Expecting value"),
        ("[" * 100_000, "this is nested too deeply to be read as JSON"),
        ('{"embed_dim": ' + "9" * 5000 + "}", "this cannot be read as JSON: a number in it has thousands"),
        ('{"embed_dim": 1, "embed_dim": 2}', "this cannot be read as JSON: embed_dim stands twice"),
        ("[]", r"this must be an object, got \[\]"),
        ("{}", "image_size is missing"),
        ('{"version": "1"}', "version must be a whole number of at least 0, got '1'"),
    ],
)
def test_bad_json_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Architecture.from_json(text)


def test_every_field_is_held_to_its_type(tmp_path: Path) -> None:
    """Bools are no ints, floats are no ints, "8" is no number."""
    file = tmp_path / "architecture.json"
    file.write_text(replace(TINY, layer_scale=True).to_json())
    optional = [field.name for field in fields(Architecture) if field.default is not MISSING]
    fine = [f"({'|'.join(optional)}): missing", r"blocks\[.\]\.merge: missing"]

    def read() -> Architecture:
        try:
            return Architecture.from_json(file.read_text())
        except ValueError as error:
            raise ValueError(f"architecture.json: {error}") from error

    assert require_refused(file, read, fine, (), lambda name: re.sub(r"(_size)\[.\]", r"\1", name)) > 150


@pytest.mark.parametrize("name", [field.name for field in fields(Architecture)])
def test_what_code_passes_in_is_checked_too(name: str) -> None:
    for value in (None, "8" if name != "pool" else 8, [3, 4]):
        change: dict[str, Any] = {name: value}
        with pytest.raises(ValueError, match=name):
            replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embed_dim": 0}, "embed_dim must be a whole number of at least 1, got 0"),
        ({"blocks": ()}, "at least one block"),
        ({"pool": "max"}, "pool must be one of token, avg"),
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"class_token": False}, "needs a class token"),
        ({"scale": 0.0}, "scale must be from 1e-06 to 1000, got 0.0"),
        ({"image_size": (4, 24)}, "image_size must be a whole number of at least 8"),
        ({"activation": "relu6"}, "activation must be one of"),
        ({"distilled": True, "pool": "avg"}, "a distilled model needs"),
        ({"skip_unread": True, "pool": "avg"}, "skip_unread needs pool 'token'"),
    ],
)
def test_impossible_architectures_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"registers": 10**9}, "registers must be at most 1,024, got 1000000000"),
        ({"registers": 10**400}, "registers must be at most 1,024, got 1000"),
        ({"class_token": 10**9}, "class_token must be true or false"),
        ({"num_classes": 10**9}, "num_classes must be at most 65,536"),
        ({"in_channels": 10**9}, "in_channels must be at most 64"),
        ({"embed_dim": 10**9}, "embed_dim must be at most 16,384"),
        ({"image_size": (10**9, 10**9)}, "image_size must be at most 4,096"),
        ({"image_size": (10**9, 10**9), "patch_size": (10**9, 10**9)}, "patch_size must be at most 4,096"),
        ({"image_size": (4096, 4096)}, "give 262,145 tokens, at most 16,384 are allowed"),
        ({"blocks": (BlockWidths(3, 8, 8, 32),) * 20_000}, "blocks must be at most 256, got 20,000"),
        (
            {"image_size": (512, 512), "blocks": (BlockWidths(3, 8, 8, 2**17),)},
            "the widest layer gives 537,001,984 numbers for one image, at most 134,217,728",
        ),
        (
            {"embed_dim": 2**14, "blocks": (BlockWidths(64, 64, 64, 2**17),) * 2},
            "the model would have 9,",
        ),
        ({"scale": 1e38}, r"scale must be from 1e-06 to 1000, got 1e\+38"),
        ({"scale": 10**400}, "scale must be from 1e-06 to 1000, got 1000"),
        ({"norm_eps": -1.0}, "norm_eps must be from 1e-15 to 1, got -1.0"),
        ({"norm_eps": 1e30}, "norm_eps must be from 1e-15 to 1"),
    ],
)
def test_architectures_beyond_the_bounds_are_refused_before_memory_is_taken(
    change: dict[str, Any], message: str
) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            replace(TINY, **change)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [field.name for field in fields(BlockWidths)])
def test_block_widths_are_bounded(name: str) -> None:
    with pytest.raises(ValueError, match=f"block width '{name}' must be at most"):
        replace(BlockWidths(3, 8, 8, 32), **{name: 10**9})


def test_the_largest_vits_in_use_are_within_the_bounds() -> None:
    blocks = (BlockWidths(48, 128, 128, 24_576),) * 8
    replace(TINY, image_size=(896, 896), patch_size=(14, 14), embed_dim=6144, blocks=blocks)
    replace(TINY, image_size=(1024, 1024), patch_size=(16, 16), embed_dim=1664, registers=4)
    replace(TINY, image_size=(224, 224), embed_dim=1280, blocks=(BlockWidths(16, 80, 80, 5120),) * 32)


def test_many_blocks_in_a_file_are_refused_before_each_is_read() -> None:
    data = json.loads(TINY.to_json()) | {"blocks": [None] * 20_000}
    with pytest.raises(ValueError, match="blocks must be at most 256, got 20,000"):
        Architecture.from_json(json.dumps(data))


@pytest.mark.parametrize("depth", [100, 900, 100_000])
@pytest.mark.parametrize("name", ["scale", "blocks", "image_size", "version", "mood"])
def test_nested_values_are_one_sentence(name: str, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    with pytest.raises(ValueError, match=r"^[^\n]{10,200}$"):
        Architecture.from_json(TINY.to_json().rstrip()[:-1] + f', "{name}2": {nested}' + "}")
    version = f'"version": {VERSION}'
    for text in (f'{{"{name}": {nested}', TINY.to_json().replace(version, f'"version": {nested}')):
        with pytest.raises(ValueError, match=r"^[^\n]{10,200}$"):
            Architecture.from_json(text)


def test_impossible_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="block width 'qk' must be a whole number of at least 1"):
        BlockWidths(3, 0, 8, 32)
