"""Kernels that find, cut out and measure objects give what their functions give; see `test_kernels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openhcs_jupyter import functions
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions._cupy import registration as kernels
from openhcs_jupyter.functions.registration import find_shift
from openhcs_jupyter.pipeline.contracts import Context
from tests.functions.images import disks, quick
from tests.functions.kernels import (
    Case,
    Pixels,
    name_of,
    on_device,
    same_labels,
    same_table,
    stack_of,
)

pytestmark = pytest.mark.usefixtures("standin")
CONTEXT = Context(
    "p", "A01", 1, None, ("DAPI", "GFP", "Cy5"), None, (0,), 0.65, None, ((0.0, 0.0),) * 3, fields=(1, 2, 3)
)
NUCLEI = functions.segment_nuclei(disks([(30, 30), (40, 41), (90, 64), (120, 120), (5, 60)], noise=60))[1]
CELLS = functions.grow_labels(NUCLEI, NUCLEI, 6)
SPARSE = np.where(NUCLEI > 0, NUCLEI.astype(np.uint64) * 5_000_000_000, 0)[0]
EMPTY = np.zeros((128, 128), np.int32)
MASK = (stack_of("uint16") > 6000).astype(np.uint8)

MAKE_LABELS: list[Case] = [
    (functions.label_objects, {}),
    (functions.label_objects, {"min_area": 12, "max_area": 300, "fill": True}),
    (functions.segment_nuclei, {}),
    (functions.segment_nuclei, {"sigma": 2, "method": "li", "max_area": 500}),
    (functions.segment_cells, {"nuclei": NUCLEI}),
    (functions.segment_cells, {"nuclei": NUCLEI[0], "reach": 7.5, "method": "triangle"}),
]
MAKE_TABLES: list[Case] = [
    (functions.measure_objects, {"labels": NUCLEI, "context": CONTEXT}),
    (functions.measure_objects, {"labels": SPARSE, "texture": 2, "neighbours": 3.5}),
    (functions.measure_objects, {"labels": CELLS, "texture": 1, "neighbours": 1}),
    (functions.measure_objects, {"labels": EMPTY, "texture": 1, "neighbours": 2}),
    (functions.measure_objects, {"labels": np.ones((128, 128), np.uint8), "texture": 9}),
    (functions.colocalisation, {"context": CONTEXT}),
    (functions.colocalisation, {"labels": NUCLEI, "method": 40.0}),
    (functions.colocalisation, {"labels": SPARSE, "method": "li"}),
    (functions.colocalisation, {"labels": EMPTY}),
    (functions.find_spots, {"context": CONTEXT, "radius": 5}),
    (functions.find_spots, {"radius": 1.5, "min_contrast": 5}),
    (functions.find_spots, {"min_contrast": 1e9}),
    (functions.field_positions, {"grid": (1, 3), "overlap": 0.3, "min_correlation": 0.0}),
    (functions.field_positions, {"context": CONTEXT, "refine": False}),
]
OTHERS = {functions.mask_with, functions.cytoplasm, functions.grow_labels, functions.count_objects}
COMPARED = {case[0] for case in (*MAKE_LABELS, *MAKE_TABLES)} | OTHERS


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("case", MAKE_LABELS, ids=name_of)
def test_labels(case: Case, dtype: str) -> None:
    function, params = case
    stack = MASK.astype(dtype) if function is functions.label_objects else stack_of(dtype)
    passed, labels = on_device(function, stack, **params)
    assert np.array_equal(passed, stack)
    same_labels(labels, function(stack, **params)[1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "int16"])
@pytest.mark.parametrize("case", MAKE_TABLES, ids=name_of)
def test_tables(case: Case, dtype: str) -> None:
    function, params = case
    stack = stack_of(dtype)
    same_table(on_device(function, stack, **params), function(stack, **params))


@quick
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_objects_of_all_shapes_are_measured_alike(labels: Pixels) -> None:
    stack = np.random.default_rng(2).integers(0, 60000, (2, *labels.shape)).astype(np.uint16)
    for texture, neighbours in ((0, 0.0), (1, 2.0)):
        wanted = functions.measure_objects(stack, labels, texture, neighbours)
        same_table(on_device(functions.measure_objects, stack, labels, texture, neighbours), wanted)
    assert on_device(functions.count_objects, stack, labels) == functions.count_objects(stack, labels)


@quick
@given(hnp.arrays(np.bool_, st.tuples(st.just(1), st.integers(1, 12), st.integers(1, 12))), st.booleans())
def test_objects_of_all_shapes_are_numbered_alike(mask: Pixels, fill: bool) -> None:
    wanted = functions.label_objects(mask, 2, 20, fill)[1]
    assert np.array_equal(on_device(functions.label_objects, mask, 2, 20, fill)[1], wanted)


@pytest.mark.parametrize("outside", [0, 7])
@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int16"])
def test_what_is_cut_out(dtype: str, invert: bool, outside: float) -> None:
    stack = stack_of(dtype)
    found = on_device(functions.mask_with, stack, NUCLEI, outside, invert)
    assert found.dtype == dtype
    assert np.array_equal(found, functions.mask_with(stack, NUCLEI, outside, invert))


@pytest.mark.parametrize("distance", [0, 1, 4.5, 30])
def test_grown_labels(distance: float) -> None:
    stack = stack_of("uint16")[:1]
    # Where two objects are as near a kernel may decide otherwise.
    same_labels(
        on_device(functions.grow_labels, stack, NUCLEI, distance), functions.grow_labels(stack, NUCLEI, distance), 3e-3
    )
    assert not on_device(functions.grow_labels, stack, EMPTY, distance).any()


def test_cytoplasm() -> None:
    stack = stack_of("uint16")[:1]
    assert np.array_equal(
        on_device(functions.cytoplasm, stack, CELLS, NUCLEI), functions.cytoplasm(stack, CELLS, NUCLEI)
    )


def test_a_shift_is_found_alike_in_large_planes() -> None:
    large = np.kron(disks([(30, 30), (90, 64), (60, 100)], noise=20)[0], np.ones((7, 7), np.uint16))
    moved = np.roll(large, (6, -9), (0, 1))
    found, wanted = kernels.find_shift(large, moved, 20), find_shift(large, moved, 20)
    assert found == pytest.approx(wanted, abs=1e-3)
    assert (found.y, found.x) == pytest.approx((-6, 9), abs=0.5)
    assert kernels.find_shift(large, np.zeros_like(large), 20).correlation == 0


def wrong(function: Any, params: dict[str, Any]) -> Sequence[tuple[Pixels, dict[str, Any]]]:
    """Calls that a function refuses."""
    bad = stack_of("float32")
    bad[1, 3, 3] = np.nan
    cases = [(bad, params)] if function not in (functions.cytoplasm, functions.grow_labels) else []
    if "labels" in params:
        unfit = (EMPTY[1:], EMPTY.astype(float), EMPTY - 1)
        cases += [(stack_of("float32"), params | {"labels": labels}) for labels in unfit]
    return cases


@pytest.mark.parametrize(
    "case",
    [
        *MAKE_LABELS,
        *MAKE_TABLES,
        (functions.mask_with, {"labels": NUCLEI}),
        (functions.grow_labels, {"labels": NUCLEI}),
    ],
    ids=name_of,
)
def test_kernels_refuse_what_their_functions_refuse(case: Case) -> None:
    function, params = case
    for stack, arguments in wrong(function, params):
        with pytest.raises(UsageError) as told:
            function(stack, **arguments)
        with pytest.raises(UsageError) as also:
            on_device(function, stack, **arguments)
        assert str(also.value) == str(told.value)
