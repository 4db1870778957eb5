"""Halves are rounded to the even number, whoever rounds: OpenCV, NumPy, or the kernels of a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from openhcs_jupyter import functions
from openhcs_jupyter.functions import _checks
from openhcs_jupyter.functions._cupy import _arrays

HALVES = [
    0.5,
    1.5,
    2.5,
    3.5,
    126.5,
    253.5,
    254.5,
    -0.5,
    -1.5,
    -2.5,
    300.5,
    32766.5,
    65533.5,
    65534.5,
    65535.5,
    -4e9,
    5e9,
]
INTEGERS = ["uint8", "uint16", "int16", "int32", "uint32", "int64"]


@pytest.mark.parametrize("depth", ["float32", "float64"])
@pytest.mark.parametrize("dtype", INTEGERS)
def test_halves_go_to_the_even_number_and_the_range_holds(dtype: str, depth: str) -> None:
    values = np.array(HALVES, depth).reshape(1, 1, -1)
    limits = np.iinfo(dtype)
    wanted = [min(max(round(value), int(limits.min)), int(limits.max)) for value in HALVES]
    for to_type in (_checks.to_type, _arrays.to_type):
        found = to_type(values, np.dtype(dtype))
        assert found.dtype == dtype
        assert found.ravel().tolist() == wanted


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_means_of_two_pixels(dtype: str) -> None:
    # Means 0.5, 1.5, 2.5, 3.5.
    stack = np.array([[[0, 1, 2, 3]], [[1, 2, 3, 4]]], dtype)
    wanted = [0, 2, 2, 4]
    assert functions.mean_projection(stack).ravel().tolist() == wanted
    assert functions.composite(stack).ravel().tolist() == wanted
    blocks = np.repeat(stack.transpose(1, 0, 2), 2, axis=2)
    assert functions.bin_pixels(blocks).ravel().tolist() == wanted


def test_means_of_arrays_of_other_packages() -> None:
    xp = pytest.importorskip("array_api_strict")
    stack = xp.asarray(np.array([[[0, 1, 2, 3]], [[1, 2, 3, 4]]], np.uint16))
    assert np.from_dlpack(functions.mean_projection(stack)).ravel().tolist() == [0, 2, 2, 4]


def test_what_is_far_too_bright_becomes_the_brightest_and_not_black() -> None:
    stack = np.full((1, 400, 400), 65535, np.uint16)
    assert functions.bin_pixels(stack, 200, "sum").tolist() == [[[65535, 65535], [65535, 65535]]]
    dim = np.full((400, 400), 1e-9, np.float32)
    assert (functions.correct_illumination(stack, dim) == 65535).all()
    assert (functions.correct_illumination(stack, dim, offset=65536.0) == 0).all()
