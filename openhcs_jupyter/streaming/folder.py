"""A run's folder as a source: planes are mapped from the run store, no kernel is needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.fetching import Fetchers
from openhcs_jupyter.streaming.follower import Follower
from openhcs_jupyter.streaming.layers import LinkChanged
from openhcs_jupyter.streaming.local import plane_here, table_here
from openhcs_jupyter.streaming.planes import Reader
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
        self._reader = Reader()
        self._fetchers = Fetchers(_THREADS)
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow the run."""
        self._thread = threading.Thread(target=self._follow, name="openhcs-follow", daemon=True)
        self._thread.start()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener everything that is known, then everything new."""
        return self._board.subscribe(listener)

    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        """Map a plane, or shrink it."""
        return self._fetchers.submit(lambda: plane_here(self._board, self._reader, request), request.urgency)

    def fetch_table(self, request: TableRequest) -> Future[pa.Table]:
        """Map a table."""
        return self._fetchers.submit(lambda: table_here(self._board, self._reader, request), request.urgency)

    def close(self) -> None:
        """Stop to follow the run."""
        self._end.set()
        self._fetchers.close()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _follow(self) -> None:
        self._board.post(LinkChanged(link="local"))
        while not self._end.is_set():
            try:
                for announcement in self._follower.announcements():
                    self._board.post(announcement)
                    if self._end.is_set():
                        break
            except OpenHCSError as error:
                self._board.post(LinkChanged(link="refused", detail=str(error)))
                return
            self._end.wait(_LOOK_S)
        self._board.post(LinkChanged(link="closed"))
