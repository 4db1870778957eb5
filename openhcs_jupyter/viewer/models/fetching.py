"""Fetches the planes that are looked at: in the background, the most wanted first, a bounded number at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from openhcs_jupyter.streaming.source import Plane, PlaneRequest, Priority, Source
from openhcs_jupyter.viewer.models.planes import Held, PlaneKey, PlaneStore, reduced

_log = logging.getLogger(__name__)
_COARSE_LEVEL = 3
"""The level of a source's coarse planes: one pixel for each 8 x 8."""


class Wish(NamedTuple):
    """A plane that is looked at, or soon will be."""

    key: PlaneKey
    level: int
    version: str
    labels: bool
    priority: Priority = Priority.VISIBLE


class Fetcher:
    """Brings planes from a source into a store.

    Parameters
    ----------
    source
        Where planes are.
    store
        Where they go.
    most
        Requests that are under way at a time.
    """

    def __init__(self, source: Source, store: PlaneStore, most: int = 16) -> None:
        self._source, self._store, self._most = source, store, most
        self._lock = threading.Lock()
        self._wishes: dict[tuple[PlaneKey, bool], Wish] = {}
        """In the order in which they are fetched; a coarse plane is a wish of its own."""
        self._flying: dict[tuple[PlaneKey, bool], tuple[Wish, Future[Plane]]] = {}
        self._arrived: set[PlaneKey] = set()
        self._refused: dict[PlaneKey, str] = {}
        """Versions of planes that the source could not give."""
        # Maps are read and planes are halved here, not in the window's thread and not in the source's.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="openhcs-viewer")
        self._closed = False
        self._again = False
        self._troubled = False
        self.trouble = ""
        """What was wrong with the plane that was refused last."""

    def wish(self, wishes: Sequence[Wish], *, coarse_first: bool) -> None:
        """Replace all wishes; requests for what is no longer wished are withdrawn.

        Parameters
        ----------
        wishes
            The most wanted first.
        coarse_first
            Fetch small versions of planes before the planes, as is worth it over a network.
        """
        wanted = self._places(wishes, coarse_first=coarse_first)
        with self._lock:
            self._wishes = wanted
            gone = [future for place, (_, future) in self._flying.items() if place not in wanted]
        for future in gone:
            future.cancel()
        self._pump()

    def add(self, wishes: Sequence[Wish], *, coarse_first: bool) -> None:
        """Wish for more, after what is wished already."""
        more = self._places(wishes, coarse_first=coarse_first)
        with self._lock:
            self._wishes |= more
        self._pump()

    def take_arrived(self) -> set[PlaneKey]:
        """Return the planes that have arrived since the last call."""
        with self._lock:
            arrived, self._arrived = self._arrived, set()
        return arrived

    def take_troubled(self) -> bool:
        """Tell whether `trouble` is another one than at the last call."""
        with self._lock:
            troubled, self._troubled = self._troubled, False
        return troubled

    def take_again(self) -> bool:
        """Tell whether something was withdrawn since the last call: if it is looked at again, wish for it again."""
        with self._lock:
            again, self._again = self._again, False
        return again

    @property
    def is_idle(self) -> bool:
        """Whether nothing is wished or under way."""
        with self._lock:
            return not self._wishes and not self._flying

    def close(self) -> None:
        """Withdraw everything and end the thread."""
        with self._lock:
            self._closed = True
            self._wishes = {}
            flying = [future for _, future in self._flying.values()]
        for future in flying:
            future.cancel()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _places(self, wishes: Sequence[Wish], *, coarse_first: bool) -> dict[tuple[PlaneKey, bool], Wish]:
        open_ = [wish for wish in wishes if self._refused.get(wish.key) != wish.version]
        coarse = [
            wish
            for wish in open_
            if wish.level >= _COARSE_LEVEL or (coarse_first and self._store.best(wish.key, wish.level) is None)
        ]
        full = [wish for wish in open_ if wish.level < _COARSE_LEVEL]
        return {(wish.key, True): wish for wish in coarse} | {(wish.key, False): wish for wish in full}

    def _pump(self) -> None:
        while True:
            with self._lock:
                if self._closed or len(self._flying) >= self._most:
                    return
                place = next((one for one in self._wishes if one not in self._flying), None)
                if place is None:
                    return
                wish = self._wishes[place]
                key = wish.key
                request = PlaneRequest(**key._asdict(), coarse=place[1], priority=wish.priority)
                future = self._source.fetch(request)
                self._flying[place] = (wish, future)
            future.add_done_callback(partial(self._done, place, wish))

    def _done(self, place: tuple[PlaneKey, bool], wish: Wish, future: Future[Plane]) -> None:
        with self._lock:
            if self._closed:
                return
            if not future.cancelled():
                self._worker.submit(self._keep, place, wish, future)
                return
            self._again = True
            if self._flying.get(place, (None, None))[1] is future:
                del self._flying[place]

    def _keep(self, place: tuple[PlaneKey, bool], wish: Wish, future: Future[Plane]) -> None:
        key, coarse = place
        try:
            plane = future.result()
            first = _COARSE_LEVEL if coarse else 0
            level = max(first, wish.level)
            array = reduced(plane.array, level - first, labels=wish.labels)
            self._store.put(key, Held(array, level, plane.version))
            with self._lock:
                self._arrived.add(key)
                if plane.version != wish.version:
                    self._refused.pop(key, None)
        except Exception as error:  # noqa: BLE001  # whatever a plane's trouble is, the others are fetched
            _log.warning("A plane cannot be shown: %s", error)
            with self._lock:
                self._refused[key] = wish.version
                self.trouble = str(error)
                self._troubled = True
        with self._lock:
            self._flying.pop(place, None)
            self._wishes.pop(place, None)
        self._pump()
