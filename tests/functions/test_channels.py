"""Arithmetic between channels, held to NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import ratio, subtract_channel
from tests.functions.images import quick, stacks
from tests.functions.test_measurement import HERE


@quick
@given(stacks(("uint8", "uint16", "int16", "float32", "float64")), st.sampled_from([0.0, 0.25, 1.0, 3.0]))
def test_the_share_of_a_channel_is_taken_from_the_others(stack: NDArray[Any], factor: float) -> None:
    out = subtract_channel(stack, 0, factor)
    assert out.dtype == stack.dtype
    assert np.array_equal(out[0], stack[0])
    expected = stack[1:].astype(np.float64) - factor * stack[0].astype(np.float64)
    if stack.dtype.kind in "iu":
        limits = np.iinfo(stack.dtype)
        expected = expected.clip(limits.min, limits.max)
    scale = max(1.0, float(np.abs(stack.astype(np.float64)).max()))
    np.testing.assert_allclose(out[1:], expected, rtol=0, atol=0.51 if stack.dtype.kind in "iu" else 1e-6 * scale)


def test_channels_are_named() -> None:
    stack = np.stack([np.full((3, 4), value, np.uint16) for value in (100, 30)])
    assert (subtract_channel(stack, "DAPI", 0.1, HERE)[1] == 20).all()
    assert (ratio(stack, "GFP", "DAPI", context=HERE) == np.float32(0.3)).all()


@quick
@given(stacks(("uint8", "uint16", "int32", "float64")))
def test_the_ratio_is_numpys_and_0_where_there_is_nothing_to_divide_by(stack: NDArray[Any]) -> None:
    stack = np.concatenate([stack, stack])[:2]
    out = ratio(stack, floor=1.0)
    assert out.dtype == np.float32
    assert out.shape == (1, *stack.shape[1:])
    above = stack[1] > 1
    np.testing.assert_allclose(out[0][above], stack[0][above] / stack[1][above], rtol=1e-6)
    assert not out[0][~above].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: subtract_channel(stack, "GFB", context=HERE), "no channel 'GFB' in its stack of DAPI, GFP"),
        (lambda stack: subtract_channel(stack, 2), "no channel 2 in its stack of 0, 1"),
        (lambda stack: subtract_channel(stack, 0, -1), "factor is -1"),
        (lambda stack: ratio(stack, 1, 1), "the same channel"),
        (lambda stack: ratio(stack[:1]), "no channel 1"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(np.ones((2, 3, 3), np.uint16))
