"""Finds the module and the path by which a value can be imported."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np

from openhcs_jupyter.pipeline._packages import holder_of, module_dict


def importable(value: Any) -> tuple[str, str] | None:
    """Find the module, the nearest to its package's face, and the path by which a value can be imported."""
    home: object = getattr(value, "__module__", None)
    path: object = getattr(value, "__qualname__", None)
    bound = isinstance(value, types.BuiltinFunctionType | types.MethodType)
    if isinstance(value, np.ufunc):
        home, path = "numpy" if hasattr(np, value.__name__) else "scipy.special", value.__name__
    elif bound and value.__self__ is not None and not isinstance(value.__self__, types.ModuleType):
        home, path = type(value.__self__).__module__, value.__name__
    elif bound and home is None:
        home = holder_of(value)
    if not isinstance(home, str) or not isinstance(path, str) or home == "__main__" or "<" in path:
        return None
    top = home.partition(".")[0]
    holders = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == top and _holds(module, path, value, bound)
    ]
    if not holders:
        return None
    return min(holders, key=lambda name: ("._" in name, name.count("."), name)), path


def _holds(module: types.ModuleType, path: str, value: object, bound: bool) -> bool:
    first, *rest = path.split(".")
    namespace = module_dict(module)
    # A lazy package lists what it would load.
    lazy = first not in namespace and first in namespace.get("__all__", ())
    found: object = getattr(module, first, None) if lazy else namespace.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found is value or (bound and found == value)
