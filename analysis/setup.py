"""Process set-up before torch is loaded, and a workaround for mismatched builds of torch and torchvision."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from contextlib import suppress
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, FileFinder


def setup() -> None:
    """Set up this process; every entry point of the project calls it before anything imports torch.

    OpenMP threads spin while they wait for each other. With libgomp's default of 300,000 spins a forward
    pass is many times slower on a machine that is busy with anything else; 10,000 spins are no slower on
    an idle machine. The setting is read when torch is loaded.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@cache
def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, for tensors to come; for those that train.

    glibc hands large tensors back to the system as soon as they are freed, and the system clears every page
    that it gives anew: a tenth to a quarter of the time of a training step on a CPU (DeiT-Tiny and the demo,
    64 images). A process takes no more memory at most, but gives none back. Nothing happens where another
    library allocates, or where the environment says how glibc is to do it.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with suppress(OSError, AttributeError, TypeError):  # as on Windows and macOS
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@cache  # the operators exist only as long as the Library object
def mend_torchvision() -> object:
    """Make torchvision importable even if its compiled operators do not match the installed torch.

    A CPU build of torch cannot load the operators of the CUDA build of torchvision that the package
    index serves, and `import torchvision` (hence `import timm`) fails with "operator torchvision::nms
    does not exist". This project uses only torchvision's Python transforms, so declaring the schemas of
    the two missing operators is enough. torchvision is not imported here, because that takes over a
    second and not every command needs it.
    """
    import torch  # imported late, because `setup` must run first

    spec = importlib.util.find_spec("torchvision") if "torchvision" not in sys.modules else None
    if spec is None or not spec.submodule_search_locations:
        return None  # already imported, or not installed: the import that needs it will raise
    folder = FileFinder(spec.submodule_search_locations[0], (ExtensionFileLoader, EXTENSION_SUFFIXES))
    operators = folder.find_spec("_C")
    try:
        if operators is None or operators.origin is None:
            raise OSError("torchvision has no operators of its own")
        torch.ops.load_library(operators.origin)
        return None
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
