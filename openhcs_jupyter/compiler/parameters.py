"""Says the parameters of functions in JSON."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

_LONG = 200
"""Letters of a description."""
_DEEP = 8
"""Levels of a nested parameter that are said."""


def plain(value: Any, depth: int = 0) -> Any:
    """Say a parameter in JSON, or describe it."""
    kind = type(value)
    if value is None or kind is bool or (kind is int and abs(value) < 1 << 63):
        return value
    if kind is float and math.isfinite(value):
        return value
    if kind is str:
        return value.encode(errors="backslashreplace").decode()
    if kind in (list, tuple) and depth < _DEEP:
        return [plain(item, depth + 1) for item in value]
    if kind is dict and depth < _DEEP:
        return {plain(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return f"<array {value.shape} {value.dtype}>"
    if isinstance(value, np.generic) and type(value.item()) in (bool, int, float, str):
        return plain(value.item())
    said = plain(repr(value))
    return said if len(said) <= _LONG else f"<{kind.__name__}>"
