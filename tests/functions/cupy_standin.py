"""A stand-in for CuPy: NumPy and SciPy behind arrays that are as strict as CuPy's.

Its arrays do not mix with NumPy's, neither in arithmetic nor as indices, are not converted unasked, and what NumPy
returns as a number stays an array without axes. So what runs with it moves between the memories where CuPy wants it to.
It proves nothing of a GPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from numpy.lib.mixins import NDArrayOperatorsMixin

_METHODS = {
    *("all", "any", "astype", "conj", "copy", "max", "mean", "min"),
    *("ravel", "reshape", "sum", "take", "transpose", "var", "view"),
}
_FROM_HOST = ("array", "asarray")
"""Functions that take NumPy's arrays."""


class ndarray(NDArrayOperatorsMixin):  # noqa: N801 - CuPy's name
    """An array of the stand-in."""

    def __init__(self, held: Any) -> None:
        self._held = np.asarray(held)

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return _strict(getattr(self._held, name))
        if name in ("dtype", "nbytes", "ndim", "shape", "size"):
            return getattr(self._held, name)
        raise AttributeError(f"cupy.ndarray, as it is known here, has no {name}")

    def get(self) -> Any:
        return self._held.copy()

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **how: Any) -> Any:
        if method != "__call__":
            raise TypeError(f"CuPy has no numpy.{ufunc.__name__}.{method}")
        out = how.get("out", ())
        result = _strict(ufunc)(*inputs, **how)
        return out[0] if out else result

    def __array_function__(self, function: Any, types: Any, args: Any, how: Any) -> Any:
        return _strict(function)(*args, **how)

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __getitem__(self, index: Any) -> ndarray:
        return ndarray(self._held[_unwrapped(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self._held[_unwrapped(index)] = _unwrapped(value)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[index] for index in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._held)

    def __int__(self) -> int:
        return int(self._held)

    def __index__(self) -> int:
        return self._held.__index__()

    def __float__(self) -> float:
        return float(self._held)

    def __str__(self) -> str:
        return str(self._held)


ndarray.__module__ = "cupy"


def _unwrapped(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrapped, value))
    return value


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wrapped, value))
    return ndarray(value) if isinstance(value, np.ndarray | np.generic) else value


def _strict(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **how: Any) -> Any:
        return _wrapped(function(*map(_unwrapped, args), **{name: _unwrapped(value) for name, value in how.items()}))

    return call


def _sent(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(value: Any, *args: Any, **how: Any) -> ndarray:
        return ndarray(function(value._held if isinstance(value, ndarray) else value, *args, **how))

    return call


class _Module(ModuleType):
    """A module that has the functions of another one, for the stand-in's arrays."""

    def __init__(self, name: str, of: ModuleType) -> None:
        super().__init__(name)
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if isinstance(found, type) or not callable(found):
            return found
        return _sent(found) if name in _FROM_HOST else _strict(found)


class _Ndimage(_Module):
    def label(self, array: ndarray, structure: Any = None) -> tuple[ndarray, int]:
        """As cupyx has it: the structure may be of NumPy."""
        labels, count = scipy.ndimage.label(_unwrapped(array), structure=structure)
        return ndarray(labels), count


@pytest.fixture(scope="module")
def standin() -> Iterator[None]:
    """Have the stand-in imported in place of CuPy."""
    with pytest.MonkeyPatch.context() as patch:
        _install(patch)
        yield


def _install(monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = _Module("cupy", np)
    vars(cupy)["ndarray"] = ndarray
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.ndimage", _Ndimage("cupyx.scipy.ndimage", scipy.ndimage))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.fft", _Module("cupyx.scipy.fft", scipy.fft))
