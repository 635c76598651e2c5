"""Optional packages that some formats are written with."""

from __future__ import annotations

import importlib.util

_PACKAGES = {"ncnn": ("ncnn", "pnnx"), "openvino": ("openvino",), "openvino-int8": ("openvino", "nncf")}


def missing_packages(format: str) -> tuple[str, ...]:
    """All optional packages of a format if one of them is not installed, else none."""
    packages = _PACKAGES.get(format, ())
    return packages if any(importlib.util.find_spec(one) is None for one in packages) else ()


def require_packages(format: str) -> None:
    """Check that the optional packages of a format are installed.

    Raises:
        ValueError: one is missing.
    """
    packages = _PACKAGES.get(format, ())
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the format {format} needs the package {package}, which is not installed: "
                f"pip install {' '.join(packages)}"
            )
