"""Calls a step's functions and checks what they return."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from openhcs_jupyter.compiler.plan import PlannedOutput, PlannedStep
from openhcs_jupyter.engine.devices.base import Held, OnDevice
from openhcs_jupyter.engine.images import Pixels
from openhcs_jupyter.pipeline.chains import BoundCall

_OWN = str(Path(__file__).parent)
_LONGEST_MESSAGE, _LONGEST_TRACE = 2000, 20_000
"""Characters; an exception may hold a whole array as text."""


class StepError(Exception):
    """A step failed; its message is what the user reads.

    Parameters
    ----------
    step
        Index of the step.
    message
        What went wrong.
    trace
        The traceback of the user's function, as text.
    """

    def __init__(self, step: int, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.step = step
        self.message = message
        self.trace = trace


def call_function(step: PlannedStep, call: BoundCall, args: tuple[Any, ...], extra: dict[str, Any]) -> Any:
    """Call one function of a step.

    Raises
    ------
    StepError
        If it raises anything; tells the exception and the line of the user's code.
    """
    try:
        return call.function(*args, **call.params, **extra)
    except Exception as error:  # noqa: BLE001 - a user's function may raise anything
        raise StepError(step.index, describe(error), trace_of(error)) from None


def split(
    step: PlannedStep, call: BoundCall, stack: Held, result: Any, outputs: tuple[PlannedOutput, ...]
) -> tuple[Held, tuple[Any, ...]]:
    """Part what a function returned into its image, or the stack that passed through, and its outputs."""
    count = len(outputs)
    contract = call.contract
    kind = contract.kind or _kind_by_result(result, count)
    if kind == "measure":
        values = result if isinstance(result, tuple) and count != 1 else (result,)
        if count == 0:
            values = ()
        elif len(values) != count:
            raise StepError(step.index, _count_message(call, len(values), count, "output"))
        return stack, tuple(values)
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != count + 1:
        raise StepError(step.index, _count_message(call, len(values) - 1, count, "output beside its image"))
    return _checked_image(step, call, contract.depth, stack, values[0]), tuple(values[1:])


def _kind_by_result(result: Any, count: int) -> Literal["image", "measure"]:
    returned = len(result) if isinstance(result, tuple) else 1
    return "measure" if count and returned == count else "image"


def _count_message(call: BoundCall, returned: int, named: int, what: str) -> str:
    plural = "" if returned == 1 else "s"
    return (
        f"{call.name} returned {returned} {what.replace('output', 'output' + plural)}, and the step names {named}; "
        "name each with outputs=Labels(...), Table(...), Points(...) or ImageOutput(...)"
    )


def _checked_image(step: PlannedStep, call: BoundCall, depth: str, stack: Held, result: Any) -> Held:
    if not isinstance(result, np.ndarray | OnDevice):
        raise StepError(step.index, f"{call.name} returned {type(result).__name__}, not an array (N, Y, X)")
    image: Held = result
    if image.ndim != 3 or 0 in image.shape:
        hint = "; add an axis with [None]" if image.ndim == 2 else ""
        raise StepError(step.index, f"{call.name} returned an array of shape {image.shape}, not (N, Y, X){hint}")
    if image.dtype.kind not in "buif":
        raise StepError(step.index, f"{call.name} returned pixels of dtype {image.dtype}, not of a number type")
    if depth == "same" and len(image) != len(stack):
        raise StepError(step.index, f"{call.name} returned {len(image)} planes for {len(stack)}")
    if depth == "one" and len(image) != 1:
        raise StepError(step.index, f"{call.name} returned {len(image)} planes, and declares one")
    if step.stack != "z" and len(image) != len(stack) and depth != "one":
        raise StepError(
            step.index,
            f"{call.name} returned {len(image)} planes for {len(stack)} along {step.stack}; "
            f'a function that joins them says so: @image(stack="{step.stack}", depth="one")',
        )
    if isinstance(image, np.ndarray) and not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder("="))
    return image


def checked_labels(step: PlannedStep, name: str, value: Any, kind: str) -> Pixels:
    """Check an output of pixels and bring it into the form ``(N, Y, X)``."""
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3) or value.dtype == object:
        shape = getattr(value, "shape", type(value).__name__)
        raise StepError(step.index, f"{kind} {name!r} is {shape}, not an array (N, Y, X) or (Y, X)")
    labels: Pixels = value
    if kind == "labels":
        if labels.dtype.kind not in "bui":
            raise StepError(step.index, f"labels {name!r} are of dtype {labels.dtype}; labels are whole numbers")
        if labels.dtype.kind == "b" or (labels.dtype.itemsize == 8 and _fits_int32(labels)):
            labels = labels.astype(np.int32)
    return labels if labels.ndim == 3 else labels[None]


def _fits_int32(labels: Pixels) -> bool:
    limits = np.iinfo(np.int32)
    return labels.size == 0 or (int(labels.min()) >= limits.min and int(labels.max()) <= limits.max)


def describe(error: BaseException) -> str:
    """Say an exception in one line, with the line of the user's code that raised it."""
    text = _shortened(_text(error), _LONGEST_MESSAGE) or "(no message)"
    if isinstance(error, ValueError) and "read-only" in text:
        text += "; a function must not change its input, copy it first"
    frames = _user_frames(error.__traceback__)
    where = f" (in {frames[-1].name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"


def trace_of(error: BaseException) -> str:
    """Format the traceback without the engine's own frames."""
    lines = traceback.format_list(_user_frames(error.__traceback__))
    last = "".join(traceback.format_exception_only(error))
    whole = "".join(["Traceback (most recent call last):\n", *lines, _shortened(last, _LONGEST_MESSAGE)])
    return _shortened(whole, _LONGEST_TRACE)


def _text(error: BaseException) -> str:
    try:
        return str(error).strip()
    except Exception:  # noqa: BLE001 - an exception of the user's own may fail to say what it is
        return ""


def _shortened(text: str, longest: int) -> str:
    """Leave out the middle of a text that is too long to be told with others."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]}\n... {len(text) - 2 * half:,} characters ...\n{text[-half:]}"


def _user_frames(trace: TracebackType | None) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(trace)
    return [frame for frame in frames if not frame.filename.startswith(_OWN)]
