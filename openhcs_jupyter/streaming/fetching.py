"""Does what a viewer asked for in threads, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
Urgency = tuple[int, ...]


class Fetchers:
    """Threads that do what is most urgent; what was cancelled meanwhile is not done.

    Parameters
    ----------
    threads
        How many things are done at a time.
    """

    def __init__(self, threads: int) -> None:
        self._heap: list[tuple[Urgency, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._news = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"openhcs-fetch-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T], urgency: Urgency) -> Future[T]:
        """Have something done; small urgencies come first, equals in the order of their submission."""
        future: Future[T] = Future()
        with self._news:
            if self._closed:
                future.cancel()
                return future
            heapq.heappush(self._heap, (urgency, next(self._numbers), future, work))
            self._news.notify()
        return future

    def close(self) -> None:
        """Cancel what waits, and end the threads."""
        with self._news:
            self._closed = True
            waiting, self._heap = self._heap, []
            self._news.notify_all()
        for _, _, future, _ in waiting:
            future.cancel()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._heap and not self._closed:
                    self._news.wait()
                if self._closed:
                    return
                _, _, future, work = heapq.heappop(self._heap)
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever waits for the future
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, work
