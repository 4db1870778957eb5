"""Kernels for arrays of a GPU give what their functions give, within the tolerance that the documentation states.

The kernels run on a stand-in for CuPy, which has NumPy and SciPy beneath. On a machine with a GPU
`test_kernels_on_a_gpu` makes the same comparisons with CuPy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter import functions
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.contracts import contract_of, image, kernel_for, kernel_of
from tests.functions import test_kernels_of_objects
from tests.functions.kernels import (
    DTYPES,
    Case,
    Function,
    name_of,
    on_device,
    same,
    stack_of,
)

pytestmark = pytest.mark.usefixtures("standin")
FLAT = np.linspace(0.5, 1.5, 128 * 128, dtype=np.float32).reshape(128, 128)
PLACES = pd.DataFrame({"y": [0.0, 3.25, 101.5], "x": [0.0, 97.0, 12.75]})
CASES: list[Case] = [
    (functions.adaptive_threshold, {"offset": -50}),
    (functions.adaptive_threshold, {"block_size": 15, "method": "mean", "offset": -50}),
    (functions.bin_pixels, {}),
    (functions.bin_pixels, {"factor": 5, "method": "sum"}),
    (functions.bin_pixels, {"factor": 3, "method": "max"}),
    (functions.bin_pixels, {"factor": 3, "method": "min"}),
    (functions.composite, {}),
    (functions.composite, {"weights": [3, 1, 2]}),
    (functions.correct_illumination, {"flat": FLAT, "offset": 10.0}),
    (functions.crop, {"y": 3, "x": 5, "height": 60, "width": 31}),
    (functions.focus_select, {}),
    (functions.gaussian_blur, {}),
    (functions.gaussian_blur, {"sigma": 0}),
    (functions.gaussian_blur, {"sigma": 0.7}),
    (functions.max_projection, {}),
    (functions.mean_projection, {}),
    (functions.min_projection, {}),
    (functions.normalize_with, {"limits": pd.DataFrame({"low": [40.0], "high": [150.0]})}),
    (functions.percentile_normalize, {}),
    (functions.percentile_normalize, {"low": 5, "high": 90, "per": "plane"}),
    (functions.ratio, {"floor": 5.0}),
    (functions.register_channels, {"reference": 1, "max_shift": 5}),
    (functions.register_frames, {"max_shift": 12}),
    (functions.register_frames, {"to": "previous", "max_shift": 12}),
    (functions.sharpen, {}),
    (functions.sharpen, {"sigma": 3.0, "amount": 2.5}),
    (functions.side_projection, {}),
    (functions.side_projection, {"along": "x"}),
    (functions.stitch, {"positions": PLACES}),
    (functions.stitch, {"positions": PLACES, "blend": "none", "trim": False}),
    (functions.subtract_background, {"radius": 20}),
    (functions.subtract_background, {"radius": 9, "downsample": 1}),
    (functions.subtract_channel, {"channel": 1, "factor": 0.3}),
    (functions.sum_projection, {}),
    (functions.threshold, {}),
    (functions.threshold, {"method": "li", "per": "plane"}),
    (functions.threshold, {"method": "triangle"}),
    (functions.threshold, {"method": 77.5}),
    (functions.top_hat, {}),
    (functions.top_hat, {"radius": 7, "downsample": 1}),
    (functions.top_hat, {"radius": 10, "downsample": 3}),
]

BY_DTYPE: list[Case] = [(functions.median, {}), (functions.equalize_histogram, {})]
"""They do not take all types."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_kernel_gives_what_its_function_gives(case: Case, dtype: str) -> None:
    function, params = case
    stack = stack_of(dtype)
    same(on_device(function, stack, **params), function(stack, **params))


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_the_median_is_exact(dtype: str, radius: int) -> None:
    stack = stack_of(dtype)
    if radius == 2 and dtype == "float32":
        stack = stack[:, ::2]
    assert np.array_equal(on_device(functions.median, stack, radius), functions.median(stack, radius))


@pytest.mark.parametrize("shape", [(1, 37, 53), (2, 5, 3), (3, 64, 1)])
@pytest.mark.parametrize("function", [functions.top_hat, functions.subtract_background])
def test_planes_of_odd_sizes(function: Function, shape: tuple[int, ...]) -> None:
    stack = np.random.default_rng(1).integers(0, 60000, shape).astype(np.uint16)
    same(on_device(function, stack), function(stack))


@pytest.mark.parametrize(("value", "dtype"), [(0, "uint16"), (65535, "uint16"), (7.5, "float32")])
def test_constant_and_full_images(value: float, dtype: str) -> None:
    stack = np.full((2, 32, 32), value, dtype)
    for function in (functions.percentile_normalize, functions.threshold, functions.sharpen, functions.top_hat):
        same(on_device(function, stack), function(stack))


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_kernels_refuse_what_their_functions_refuse(case: Case) -> None:
    bad = stack_of("float32")
    bad[1, 3, 3] = np.nan
    for stack in (bad, bad[0]):
        with pytest.raises(UsageError) as told:
            case[0](stack, **case[1])
        with pytest.raises(UsageError) as also:
            on_device(case[0], stack, **case[1])
        assert str(also.value) == str(told.value)


def test_every_kernel_is_compared() -> None:
    compared = {case[0] for case in CASES} | {case[0] for case in BY_DTYPE} | test_kernels_of_objects.COMPARED
    every = {getattr(functions, name) for name in functions.__all__}
    assert {function for function in every if kernel_of(function, "cupy")} == compared


def test_functions_done_by_plane_give_the_same_in_parts() -> None:
    stack = stack_of("uint16")
    for function, params in CASES:
        if contract_of(function).by_plane:
            parts = [on_device(function, stack[z : z + 1], **params) for z in range(len(stack))]
            assert np.array_equal(np.concatenate(parts), on_device(function, stack, **params)), function.__name__


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_projections_keep_to_the_array_api_standard(dtype: str) -> None:
    xp = pytest.importorskip("array_api_strict")
    stack = stack_of("uint8").astype(dtype)
    for function in (
        functions.max_projection,
        functions.min_projection,
        functions.mean_projection,
        functions.sum_projection,
    ):
        found = function(xp.asarray(stack))
        assert type(found).__module__.startswith("array_api_strict")
        same(np.from_dlpack(found), function(stack))


def test_projections_of_any_array_refuse_what_is_not_finite() -> None:
    xp = pytest.importorskip("array_api_strict")
    with pytest.raises(UsageError, match="1 of 4 pixels are NaN"):
        functions.max_projection(xp.asarray([[[1.0, float("nan")], [0.0, 1.0]]]))


def test_a_kernel_of_one_s_own() -> None:
    @image(depth="same", need=3.0)
    def mine(stack: Any, factor: int = 2) -> Any:
        """Multiply."""
        return stack * factor

    assert kernel_of(mine, "cupy") is None

    @kernel_for(mine)
    def on_gpu(stack: Any, factor: int = 2) -> Any:
        return stack * factor

    found = kernel_of(mine, "cupy")
    assert found is not None
    assert found.function is on_gpu
    assert found.need == 3.0
    own = kernel_of(mine, "numpy")
    assert own is not None
    assert own.function is mine


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("per", ["stack", "plane"])
def test_contrast_is_evened_out_alike(dtype: str, per: str) -> None:
    stack = stack_of(dtype)
    same(on_device(functions.equalize_histogram, stack, per), functions.equalize_histogram(stack, per))  # type: ignore[arg-type]  # one of the words
