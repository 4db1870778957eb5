"""Keeps the latest announcement about each thing, so that who listens late hears everything there is."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.layers import (
    AnyAnnouncement,
    LayerKnown,
    LinkChanged,
    Progressed,
    RunAnnounced,
    RunView,
    StackReady,
    TableReady,
)

Key = tuple[str | int | None, ...]
Listener = Callable[[AnyAnnouncement], None]


def key_of(announcement: AnyAnnouncement) -> Key:
    """Say what an announcement is about; a later one about the same takes its place."""
    match announcement:
        case RunAnnounced():
            return ("run", announcement.view.id)
        case LayerKnown():
            return ("layer", announcement.run, announcement.layer.index)
        case StackReady() | TableReady():
            return ("ready", announcement.run, announcement.layer, announcement.well, announcement.field)
        case Progressed():
            return ("progress", announcement.run, announcement.well)
        case LinkChanged():
            return ("link",)


class Board:
    """Announcements and who listens to them. Used by several threads."""

    def __init__(self) -> None:
        self._latest: dict[Key, tuple[int, AnyAnnouncement]] = {}
        self._number = 0
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()  # a listener may subscribe another one

    @property
    def number(self) -> int:
        """How many announcements there have been."""
        return self._number

    def post(self, announcement: AnyAnnouncement) -> int:
        """Keep an announcement and tell everybody; returns its number, counted from 1."""
        with self._lock:
            if isinstance(announcement, RunAnnounced):
                self._forget(announcement.view.id)
            key = key_of(announcement)
            self._latest.pop(key, None)
            self._number += 1
            self._latest[key] = (self._number, announcement)
            for listener in self._listeners:
                listener(announcement)
            return self._number

    def since(self, number: int, most: int) -> tuple[list[AnyAnnouncement], int]:
        """Return at most so many announcements after a number that are still kept, and up to which number that is."""
        with self._lock:
            later = ((n, announcement) for n, announcement in self._latest.values() if n > number)
            found = list(itertools.islice(later, most))
            return [announcement for _, announcement in found], found[-1][0] if len(found) == most else self._number

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener everything that is kept, then everything new; returns what ends it."""
        with self._lock:
            for _, announcement in list(self._latest.values()):
                listener(announcement)
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                self._listeners.remove(listener)

        return end

    def stack(self, run: str, layer: int, well: int, field: int) -> StackReady:
        """Return what was last said about a stack.

        Raises
        ------
        StreamError
            If nothing was.
        """
        ready = self.latest(("ready", run, layer, well, field))
        if not isinstance(ready, StackReady):
            raise StreamError(f"Layer {layer} of run {run} is not there at well {well}, field {field}.")
        return ready

    def table(self, run: str, layer: int, well: int, field: int) -> TableReady:
        """Return what was last said about a table.

        Raises
        ------
        StreamError
            If nothing was.
        """
        ready = self.latest(("ready", run, layer, well, field))
        if not isinstance(ready, TableReady):
            raise StreamError(f"Table {layer} of run {run} is not there at well {well}, field {field}.")
        return ready

    def view(self, run: str) -> RunView:
        """Return a run's view.

        Raises
        ------
        StreamError
            If the run was not announced.
        """
        announced = self.latest(("run", run))
        if not isinstance(announced, RunAnnounced):
            raise StreamError(f"There is no run {run} here.")
        return announced.view

    def latest(self, key: Key) -> AnyAnnouncement | None:
        """Return what was last said about something."""
        with self._lock:
            found = self._latest.get(key)
            return found[1] if found is not None else None

    def _forget(self, run: str) -> None:
        for key in [key for key in self._latest if len(key) > 1 and key[1] == run]:
            del self._latest[key]
