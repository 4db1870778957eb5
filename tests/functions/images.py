"""Stacks for the tests of functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

quick = settings(deadline=None, max_examples=40)
"""Many small examples; the first may wait for imports."""

REAL = ("uint8", "uint16", "int16", "int32", "float32", "float64")


def stacks(dtypes: tuple[str, ...] = REAL, largest: int = 12) -> st.SearchStrategy[NDArray[Any]]:
    """Small read-only stacks of finite pixels."""
    shapes = st.tuples(st.integers(1, 3), st.integers(1, largest), st.integers(1, largest))

    def of(dtype: str) -> st.SearchStrategy[NDArray[Any]]:
        kind = np.dtype(dtype)
        if kind.kind == "f":
            values = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)
        else:
            limits = np.iinfo(kind)
            values = st.integers(max(limits.min, -(10**6)), min(limits.max, 10**6))
        return hnp.arrays(kind, shapes, elements=values).map(read_only)

    return st.sampled_from(dtypes).flatmap(of)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array, closed for writing as a mapped file is."""
    array.flags.writeable = False
    return array


def disks(
    centres: list[tuple[float, float]], radius: float = 8.0, size: int = 128, noise: float = 10.0
) -> NDArray[np.uint16]:
    """One noisy plane ``(1, Y, X)`` with bright disks."""
    y, x = np.indices((size, size))
    plane = np.full((size, size), 200.0)
    for cy, cx in centres:
        plane[np.hypot(y - cy, x - cx) <= radius] = 2000.0
    plane += np.random.default_rng(7).normal(0, noise, plane.shape)
    return read_only(plane.round().clip(0, 65535).astype(np.uint16)[None])
