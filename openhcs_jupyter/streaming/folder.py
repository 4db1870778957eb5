"""A run's folder as a source: planes are mapped from the run store, no kernel is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openhcs_jupyter.errors import OpenHCSError, StreamError
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.fetching import Fetchers
from openhcs_jupyter.streaming.follower import Follower
from openhcs_jupyter.streaming.layers import LinkChanged
from openhcs_jupyter.streaming.planes import coarse, fetch_pages, open_stack, read_table
from openhcs_jupyter.streaming.source import Listener, Plane, PlaneRequest, Source, TableRequest

if TYPE_CHECKING:
    import pyarrow as pa

_LOOK_S = 0.01
_THREADS = 2


class FolderSource(Source):
    """A run in a run store that this machine can read: going on, or ended.

    Parameters
    ----------
    folder
        The run's folder.

    Raises
    ------
    RunError
        If it holds no run that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self._follower = Follower(folder)
        self._board = Board()
        self._fetchers: Fetchers | None = None
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow the run."""
        self._fetchers = Fetchers(_THREADS)
        self._thread = threading.Thread(target=self._follow, name="openhcs-follow", daemon=True)
        self._thread.start()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener everything that is known, then everything new."""
        return self._board.subscribe(listener)

    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        """Map a plane, or shrink it."""
        urgency = (request.priority, not request.coarse)
        return self._running.submit(lambda: read_plane(self._follower, request), urgency)

    def fetch_table(self, request: TableRequest) -> Future[pa.Table]:
        """Map a table."""
        return self._running.submit(lambda: _table(self._follower, request), (request.priority, 0))

    def close(self) -> None:
        """Stop to follow the run."""
        self._end.set()
        if self._fetchers is not None:
            self._fetchers.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def _running(self) -> Fetchers:
        if self._fetchers is None:
            raise StreamError("The source has not been started.")
        return self._fetchers

    def _follow(self) -> None:
        self._board.post(LinkChanged(link="local"))
        while not self._end.is_set():
            try:
                for announcement in self._follower.announcements():
                    self._board.post(announcement)
            except OpenHCSError as error:
                self._board.post(LinkChanged(link="refused", detail=str(error)))
                return
            self._end.wait(_LOOK_S)
        self._board.post(LinkChanged(link="closed"))


def read_plane(follower: Follower, request: PlaneRequest) -> Plane:
    """Map a plane of a run, or shrink it.

    Raises
    ------
    StreamError
        If it is not there.
    """
    place = follower.place(request.layer, request.well, request.field)
    try:
        stack = open_stack(place.path)
    except (OSError, ValueError) as error:
        raise StreamError(f"{place.path} cannot be read: {error}") from error
    if not (0 <= request.t < stack.shape[0] and 0 <= request.z < stack.shape[1]):
        raise StreamError(f"{place.path.name} has no plane at t {request.t}, z {request.z}.")
    plane = stack[request.t, request.z]
    if request.coarse:
        plane = coarse(plane, follower.layer(request.layer).kind)
        plane.flags.writeable = False
    else:
        fetch_pages(plane)
    return Plane(array=np.asarray(plane), version=place.version)


def _table(follower: Follower, request: TableRequest) -> pa.Table:
    place = follower.place(request.layer, request.well, request.field)
    try:
        return read_table(place.path)
    except (OSError, ValueError) as error:
        raise StreamError(f"{place.path} cannot be read: {error}") from error
