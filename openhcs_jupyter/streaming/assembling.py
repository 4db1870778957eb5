"""Puts planes together from the parts in which they arrive."""

from __future__ import annotations

import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.codecs import plane_dtype, unpack
from openhcs_jupyter.streaming.frames import MalformedError
from openhcs_jupyter.streaming.source import Plane
from openhcs_jupyter.streaming.wire import Part


class Assembly:
    """A plane that arrives in parts."""

    def __init__(self, part: Part) -> None:
        self.version, self.dtype, self.shape = part.version, part.dtype, part.shape
        self.array = np.empty(part.shape, plane_dtype(part.dtype))
        self.rows: set[int] = set()
        """First rows of the parts that arrived."""
        self.arrived = 0
        self.unpacked = 0
        self.is_wanted = True
        """False once its connection was lost."""
        self.lock = threading.Lock()

    def fits(self, part: Part) -> bool:
        """Tell whether a part is of the same plane."""
        return (part.version, part.dtype, part.shape) == (self.version, self.dtype, self.shape)


def mapped(part: Part, payload: Any) -> NDArray[np.generic]:
    """Take a payload's own memory for a plane."""
    dtype = plane_dtype(part.dtype)
    data = memoryview(payload)
    if data.nbytes != part.shape[0] * part.shape[1] * dtype.itemsize:
        raise MalformedError(f"{data.nbytes} bytes for {part.shape[0]} x {part.shape[1]} {part.dtype}")
    array = np.frombuffer(data, dtype).reshape(part.shape)
    array.flags.writeable = False
    return array


def unpack_part(part: Part, payload: Any, assembly: Assembly, future: Future[Any]) -> None:
    """Put a part into its plane; with the last one, the plane is what the future waits for.

    Raises
    ------
    MalformedError
        If the part is damaged.
    """
    unpack(payload, part.codec, assembly.array[part.row : part.row + part.rows])
    with assembly.lock:
        assembly.unpacked += part.rows
        done = assembly.unpacked == part.shape[0]
    if done and assembly.is_wanted:
        assembly.array.flags.writeable = False
        settle(future, Plane(array=assembly.array, version=part.version))


def report(work: Future[None], future: Future[Any]) -> None:
    """Tell whoever waits for a plane how unpacking a part has failed, if it has."""
    if work.cancelled():
        future.cancel()
    elif (error := work.exception()) is not None:
        settle(future, error=StreamError(f"A plane arrived damaged: {error}."))


def settle(future: Future[Any], value: object = None, *, error: StreamError | None = None) -> None:
    """Answer a future, unless it was cancelled or answered."""
    with suppress(InvalidStateError):
        if not future.done() and future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
