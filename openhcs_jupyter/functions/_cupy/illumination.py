"""Kernel of the correction of illumination."""

from __future__ import annotations

from openhcs_jupyter.functions import illumination
from openhcs_jupyter.functions._checks import check_range, check_stack
from openhcs_jupyter.functions._cupy._arrays import Array, as_float, packages, to_type
from openhcs_jupyter.pipeline.contracts import kernel_for


@kernel_for(illumination.correct_illumination, need=9.0)
def correct_illumination(stack: Array, flat: Array, offset: float = 0.0) -> Array:
    check_stack(stack, "correct_illumination")
    check_range("correct_illumination", "offset", offset, -1e9, 1e9)
    values = as_float(stack)
    field = illumination.checked_field(packages(stack).xp.asarray(flat), stack.shape[1:]).astype(values.dtype)
    return to_type((values - values.dtype.type(offset)) / field, stack.dtype)
