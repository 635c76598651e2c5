"""The device.json files of benchmark kits that this session has been given, for several pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app.state import uploads
from pruning.kit import DeviceTable, read_device


def devices() -> dict[str, DeviceTable]:
    """What each device measured, by the path of its file; those given last come last."""
    found: dict[str, DeviceTable] = st.session_state.setdefault("devices", {})
    return found


def name(path: str) -> str:
    """What a device is called on a page: numbered where several files name the same one."""
    names = [table.device for table in devices().values()]
    number = list(devices()).index(path) + 1
    called = devices()[path].device or "device"
    return f"{called} ({number})" if names.count(called) > 1 else called


def add(files: Sequence[Any]) -> None:
    """Keep the files of an upload widget.

    Raises:
        ValueError: one is damaged, or too large; the others are kept.
    """
    problem: ValueError | None = None
    for file in files:
        try:
            _add(file)
        except ValueError as error:
            problem = error
    if problem is not None:
        raise problem


def _add(file: Any) -> None:
    path = uploads.save_upload(file, "device")
    if path in devices():
        return
    try:
        devices()[path] = read_device(Path(path))
    except ValueError as error:
        said = str(error).replace(path, Path(path).name)
        raise ValueError(said) from error
