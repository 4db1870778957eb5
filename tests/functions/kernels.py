"""What the tests of kernels share: images to compare on, and when two results are the same."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from openhcs_jupyter.pipeline.contracts import kernel_of
from openhcs_jupyter.topology import discover_gpus
from tests.functions.images import disks

Function = Callable[..., Any]
Pixels = NDArray[Any]
Case = tuple[Function, dict[str, Any]]
DTYPES = ["uint8", "uint16", "float32", "float64", "int16"]


def stack_of(dtype: str) -> Pixels:
    """Three noisy planes of bright disks."""
    noise = np.random.default_rng(0).normal(0, 150, (3, 128, 128))
    planes = np.concatenate([disks([(30, 30), (90, 64)]), disks([(60, 50), (60, 65)]), disks([(100, 20)])])
    stack = np.clip(planes + noise, 0, 4095) / 16
    if np.dtype(dtype).kind == "f":
        return (stack / 255).astype(dtype)
    return (stack * (100 if dtype == "uint16" else 1)).astype(np.int64).clip(0, np.iinfo(dtype).max).astype(dtype)


def kernel(function: Function) -> Function:
    """Return the kernel of a function for arrays of CuPy."""
    found = kernel_of(function, "cupy")
    assert found is not None
    return found.function


def same(found: Pixels, wanted: Pixels) -> None:
    """Compare as the documentation states: integers within 1, floats within a hundred-thousandth of the largest."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if found.dtype == np.uint8 and wanted.max() <= 1:
        # Thresholds: a pixel that lies on one may fall on either side.
        assert np.mean(found != wanted) < 1e-3
    elif found.dtype.kind in "ui":
        assert np.abs(found.astype(np.int64) - wanted.astype(np.int64)).max() <= 1
    else:
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(np.abs(wanted).max(), 1e-6))


def same_labels(found: Pixels, wanted: Pixels, unlike: float = 1e-3) -> None:
    """Compare labels: a pixel that lies on a threshold may fall on either side."""
    assert found.dtype == wanted.dtype == np.int32
    assert found.shape == wanted.shape
    assert wanted.any()
    assert np.mean(found != wanted) < unlike


def same_table(found: pd.DataFrame, wanted: pd.DataFrame, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    """Compare tables: the same rows and columns, numbers that count something equal."""
    pd.testing.assert_frame_equal(found, wanted, rtol=rtol, atol=atol, check_exact=False)
    for column in wanted.select_dtypes("integer"):
        assert found[column].tolist() == wanted[column].tolist()


def name_of(case: Case) -> str:
    """Name a case by its function and parameters."""
    return f"{case[0].__name__}-{'-'.join(map(str, case[1]))}"


def no_gpu() -> str | None:
    """Say why nothing can be compared on a GPU."""
    if find_spec("cupy") is None:
        return "CuPy is not installed"
    gpus, _ = discover_gpus()
    return None if gpus else "this machine has no NVIDIA GPU"


def on_device(function: Function, *args: Any, **params: Any) -> Any:
    """Send arrays to the GPU, or to what stands in for it, call a function's kernel, and bring down what it returns."""
    cupy = import_module("cupy")

    def up(value: Any) -> Any:
        return cupy.array(value) if isinstance(value, np.ndarray) else value

    def down(value: Any) -> Any:
        return value.get() if isinstance(value, cupy.ndarray) else value

    sent = [up(value) for value in args]
    found = kernel(function)(*sent, **{name: up(value) for name, value in params.items()})
    assert all(np.array_equal(down(own), given) for own, given in zip(sent, args, strict=True)), "it changes its input"
    return tuple(map(down, found)) if isinstance(found, tuple) else down(found)
