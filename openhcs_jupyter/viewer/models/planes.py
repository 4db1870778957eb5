"""The planes that the viewer holds: within a budget of bytes, the least lately used are dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.generic]


class PlaneKey(NamedTuple):
    """One plane of a layer, by the indices of its run."""

    run: str
    layer: int
    well: int
    field: int
    t: int
    z: int


class Held(NamedTuple):
    """A plane as it is held."""

    array: Pixels
    """``(Y, X)``, read-only."""
    level: int
    """How often it was halved: 0 is full."""
    version: str


class PlaneStore:
    """Holds planes, each at one level or several; safe with several threads.

    Parameters
    ----------
    budget
        Bytes that all planes together may take.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._planes: OrderedDict[tuple[PlaneKey, int], Held] = OrderedDict()
        self._levels: dict[PlaneKey, tuple[int, ...]] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes that are held."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._planes)

    def put(self, key: PlaneKey, held: Held) -> None:
        """Hold a plane; other levels of another version are dropped."""
        with self._lock:
            for level in self._levels.get(key, ()):
                if level == held.level or self._planes[key, level].version != held.version:
                    self._drop(key, level)
            self._planes[key, held.level] = held
            self._levels[key] = tuple(sorted((*self._levels.get(key, ()), held.level)))
            self._bytes += held.array.nbytes
            while self._bytes > self.budget and len(self._planes) > 1:
                self._drop(*next(iter(self._planes)))

    def best(self, key: PlaneKey, level: int) -> Held | None:
        """Return a plane at the level, else the next finer one, else the finest of the coarser ones."""
        with self._lock:
            levels = self._levels.get(key)
            if levels is None:
                return None
            found = max((have for have in levels if have <= level), default=levels[0])
            self._planes.move_to_end((key, found))
            return self._planes[key, found]

    def has(self, key: PlaneKey, level: int, version: str) -> bool:
        """Tell whether a plane of this version is there, at this level or a finer one."""
        with self._lock:
            return any(
                have <= level and self._planes[key, have].version == version for have in self._levels.get(key, ())
            )

    def forget_run(self, run: str) -> None:
        """Drop all planes of a run."""
        with self._lock:
            for key, level in [place for place in self._planes if place[0].run == run]:
                self._drop(key, level)

    def _drop(self, key: PlaneKey, level: int) -> None:
        self._bytes -= self._planes.pop((key, level)).array.nbytes
        left = tuple(have for have in self._levels[key] if have != level)
        if left:
            self._levels[key] = left
        else:
            del self._levels[key]


def reduced(array: Pixels, times: int, *, labels: bool) -> Pixels:
    """Halve a plane some times: an image to the means of its squares, labels to one of four pixels.

    Parameters
    ----------
    array
        ``(Y, X)``
    times
        How often; each side is ``2 ** times`` times smaller, rounded up.

    Returns
    -------
    ndarray
        A new, contiguous and read-only array of the same dtype.
    """
    step = 1 << times
    if times == 0:
        result = np.array(array)
    elif labels:
        result = np.ascontiguousarray(array[::step, ::step])
    else:
        result = _means(array, step)
    result.flags.writeable = False
    return result


def fitted(held: Held, level: int) -> Pixels:
    """Return a held plane at a level: each pixel repeated where it is coarser, some left out where it is finer."""
    if held.level == level:
        return held.array
    if held.level < level:
        step = 1 << (level - held.level)
        return held.array[::step, ::step]
    times = 1 << (held.level - level)
    return held.array.repeat(times, axis=0).repeat(times, axis=1)


def _means(array: Pixels, step: int) -> Pixels:
    import cv2

    if array.dtype.kind not in "uif" or array.dtype.itemsize > 4 or array.dtype in (np.int8, np.uint32, np.int32):
        return np.ascontiguousarray(array[::step, ::step])
    height, width = (-(-size // step) for size in array.shape)
    if array.shape != (height * step, width * step):
        pad = (0, height * step - array.shape[0], 0, width * step - array.shape[1])
        array = cv2.copyMakeBorder(array, *pad, cv2.BORDER_REPLICATE)
    means: Pixels = cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA)
    return means
