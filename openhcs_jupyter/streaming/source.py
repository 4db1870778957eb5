"""Where a viewer gets a run from: announcements come by themselves, planes and tables are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from enum import IntEnum
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.streaming.layers import AnyAnnouncement

if TYPE_CHECKING:
    import pyarrow as pa

Listener = Callable[[AnyAnnouncement], None]


class Priority(IntEnum):
    """What is fetched first; among equals, coarse planes come before full ones, and what was asked earlier."""

    VISIBLE = 0
    NEXT = 1
    BACKGROUND = 2


class PlaneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One plane of an image or labels layer."""

    run: str
    layer: int
    well: int
    field: int
    t: int
    z: int
    coarse: bool = False
    """One pixel for each 8 x 8: means of an image, every eighth pixel of labels."""
    priority: Priority = Priority.VISIBLE

    @property
    def urgency(self) -> tuple[int, int]:
        """What is smaller is fetched first."""
        return int(self.priority), int(not self.coarse)


class TableRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a table or points layer at one well and field."""

    run: str
    layer: int
    well: int
    field: int
    priority: Priority = Priority.VISIBLE

    @property
    def urgency(self) -> tuple[int, int]:
        """What is smaller is fetched first."""
        return int(self.priority), 0


class Plane(msgspec.Struct, frozen=True, kw_only=True):
    """A plane that was asked for."""

    array: NDArray[np.generic]
    """``(Y, X)``, read-only; on the same machine a full plane is a map of its file."""
    version: str
    """As `StackReady` tells it; a plane of another version than the last one announced is out of date."""


class Source(ABC):
    """Where a viewer gets runs from. A context manager; its methods may be called from any thread.

    All but `close`, which waits for threads of the source, return at once.
    Listeners and callbacks of futures are called in threads of the source and must be quick.
    """

    @abstractmethod
    def start(self) -> None:
        """Begin to look for runs; what is found is announced."""

    @abstractmethod
    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener everything that is known, then everything new, in order.

        Returns
        -------
        Callable
            Ends the subscription.
        """

    @abstractmethod
    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        """Ask for a plane.

        Returns
        -------
        Future
            Gives the plane, or raises `StreamError` if it is not there. ``cancel()`` withdraws the request as long as
            it has not been answered. While the connection is lost the future waits; it is asked for again afterwards.
        """

    @abstractmethod
    def fetch_table(self, request: TableRequest) -> Future[pa.Table]:
        """Ask for rows, as `fetch` does for planes. Points have columns ``y``, ``x`` and perhaps ``z``, in pixels."""

    @abstractmethod
    def close(self) -> None:
        """End threads and connections; futures that wait are cancelled."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
