"""torchvision next to a CPU-only torch, for tests that compare our data with torchvision's."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

_kept: list[object] = []  # a torch Library undoes its definitions when it is collected


def load_torchvision() -> ModuleType:
    """Import torchvision; where its compiled part does not fit the torch beside it, without it.

    The PyPI wheels for Linux are CUDA builds: beside a CPU-only torch their operators fail to
    load, and the import then stumbles over the missing schema of `nms`. With the two schemas
    declared, datasets and transforms work, and operators raise when called. Raises ImportError
    or RuntimeError where torchvision cannot be had at all.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    import torch

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)
    return importlib.import_module("torchvision")
