"""The kernels on a GPU, with CuPy: the comparisons that are made elsewhere with its stand-in."""

from __future__ import annotations

import pandas as pd
import pytest

from openhcs_jupyter import functions
from tests.functions import test_kernels, test_kernels_of_objects
from tests.functions.kernels import (
    DTYPES,
    Case,
    name_of,
    no_gpu,
    on_device,
    same,
    same_labels,
    same_table,
    stack_of,
)
from tests.functions.test_kernels_of_objects import CELLS, MASK, NUCLEI

pytestmark = pytest.mark.gpu
if (lacking := no_gpu()) is not None:
    pytest.skip(f"no GPU: {lacking}", allow_module_level=True)


@pytest.mark.parametrize("case", [*test_kernels.CASES, *test_kernels.BY_DTYPE], ids=name_of)
def test_images(case: Case) -> None:
    function, params = case
    for dtype in DTYPES if case not in test_kernels.BY_DTYPE else DTYPES[:3]:
        stack = stack_of(dtype)
        same(on_device(function, stack, **params), function(stack, **params))


@pytest.mark.parametrize("case", test_kernels_of_objects.MAKE_LABELS, ids=name_of)
def test_labels(case: Case) -> None:
    function, params = case
    for dtype in DTYPES[:4]:
        stack = MASK.astype(dtype) if function is functions.label_objects else stack_of(dtype)
        same_labels(on_device(function, stack, **params)[1], function(stack, **params)[1])


@pytest.mark.parametrize("case", test_kernels_of_objects.MAKE_TABLES, ids=name_of)
def test_tables(case: Case) -> None:
    function, params = case
    for dtype in DTYPES:
        stack = stack_of(dtype)
        same_table(on_device(function, stack, **params), function(stack, **params))


def test_what_is_made_of_labels() -> None:
    stack = stack_of("uint16")
    same(on_device(functions.mask_with, stack, NUCLEI), functions.mask_with(stack, NUCLEI))
    same_labels(on_device(functions.grow_labels, stack, NUCLEI, 4.5), functions.grow_labels(stack, NUCLEI, 4.5), 3e-3)
    same_labels(on_device(functions.cytoplasm, stack, CELLS, NUCLEI), functions.cytoplasm(stack, CELLS, NUCLEI))
    assert on_device(functions.count_objects, stack, NUCLEI) == functions.count_objects(stack, NUCLEI)


def test_repeated_measurements_of_integers_are_identical() -> None:
    stack = stack_of("uint16")
    tables = [on_device(functions.measure_objects, stack, NUCLEI, 2, 3.0) for _ in range(3)]
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0], check_exact=True)
