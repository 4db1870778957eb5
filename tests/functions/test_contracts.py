"""What holds for all standard functions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter import functions
from openhcs_jupyter.pipeline.contracts import contract_of
from tests.functions.images import disks
from tests.functions.test_models import StandIn

ALL = [getattr(functions, name) for name in functions.__all__]
OF_IMAGES = [function for function in ALL if contract_of(function).kind == "image"]
ARGUMENTS: dict[str, dict[str, Any]] = {
    "correct_illumination": {"flat": np.ones((128, 128), np.float32)},
    "crop": {"y": 0, "x": 0, "height": 128, "width": 128},
    "normalize_with": {"limits": pd.DataFrame({"low": [10.0], "high": [100.0]})},
    "stitch": {"positions": pd.DataFrame({"y": [0, 0], "x": [0, 0]})},
    "segment_cellpose": {"model": StandIn()},
    "segment_stardist": {"model": StandIn()},
    "mask_with": {"labels": np.ones((128, 128), np.int32)},
    "bin_pixels": {"factor": 1},
    "segment_cells": {"nuclei": (disks([(30, 30)]) > 1000).astype(np.int32)},
    "subtract_channel": {"channel": 0},
}
"""What functions need beside their stack."""


@pytest.mark.parametrize("function", ALL, ids=lambda function: function.__name__)
def test_every_function_says_what_it_is(function: Callable[..., Any]) -> None:
    assert contract_of(function).kind in ("image", "measure", "table", "reducer")
    assert function.__doc__


@pytest.mark.parametrize("function", OF_IMAGES, ids=lambda function: function.__name__)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_image_functions_return_what_they_declare_and_leave_their_input(
    function: Callable[..., Any], dtype: str
) -> None:
    planes = np.concatenate([disks([(30, 30), (60, 64)]), disks([(60, 50), (60, 65)])])
    stack = (planes // 16).astype(dtype)
    before = stack.copy()
    stack.flags.writeable = False
    out = function(stack, **ARGUMENTS.get(function.__name__, {}))
    out = out[0] if isinstance(out, tuple) else out
    contract = contract_of(function)
    if function.__name__ == "side_projection":
        assert out.shape == (1, 2, 128)
        return
    assert out.shape == ((1,) if contract.depth == "one" else (2,)) + stack.shape[1:]
    if contract.dtype is not None:
        assert out.dtype == (stack.dtype if contract.dtype == "same" else np.dtype(contract.dtype))
    assert np.array_equal(stack, before)


def test_importing_the_functions_loads_nothing_heavy() -> None:
    heavy = ("cv2", "numba", "pandas", "scipy", "skimage")
    code = f"import sys, openhcs_jupyter.functions; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
