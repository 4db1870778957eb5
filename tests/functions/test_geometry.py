"""Cropping, held to NumPy's slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import crop
from tests.functions.images import disks


def test_the_box_is_cut_out_of_each_plane() -> None:
    stack = np.concatenate([disks([(30, 40)]), disks([(50, 60)])])
    out = crop(stack, y=20, x=30, height=50, width=98)
    assert np.array_equal(out, stack[:, 20:70, 30:128])
    assert not np.shares_memory(out, stack)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((-1, 0, 2, 2), "y is -1; it must be between 0"),
        ((0, 0, 0, 2), "height is 0"),
        ((0, 0, 2, 2.5), "width is 2.5; it must be a whole number"),
        ((4, 5, 4, 4), "the box ends at row 8 and column 9, the planes at 8 and 8"),
    ],
)
def test_a_box_that_does_not_fit_is_refused(box: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        crop(np.ones((1, 8, 8), np.uint16), *box)
