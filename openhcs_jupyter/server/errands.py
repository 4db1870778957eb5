"""Work that waits for others, done beside the server's thread, which takes the outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
_AT_A_TIME = 4
_MOST = 256


class BusyError(Exception):
    """Too much is being waited for."""


class Errands:
    """Threads that do what may take long.

    Parameters
    ----------
    wake
        Is called, in any thread, when there is an outcome to take.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._pool = ThreadPoolExecutor(_AT_A_TIME, "openhcs-errand")
        self._done: deque[tuple[Callable[[Any], None], Future[Any]]] = deque()
        self._out = 0

    def send(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        """Have something done, and be told its result, or its error, by `take`.

        Raises
        ------
        BusyError
            If too much is being waited for.
        """
        if self._out >= _MOST:
            raise BusyError
        self._out += 1

        def finished(future: Future[T]) -> None:
            self._done.append((then, future))
            self._wake()

        self._pool.submit(work).add_done_callback(finished)

    def take(self) -> None:
        """Tell what has been done."""
        while self._done:
            then, future = self._done.popleft()
            self._out -= 1
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            then(error or future.result())

    def close(self) -> None:
        """Forget what has not been begun."""
        self._pool.shutdown(wait=False, cancel_futures=True)
