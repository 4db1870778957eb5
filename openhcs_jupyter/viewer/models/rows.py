"""The rows of tables and points at the places that are looked at, fetched in the background."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from openhcs_jupyter.streaming.source import Source, TableRequest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_log = logging.getLogger(__name__)
_KEPT_PLACES = 4096
_FLYING = 16


class RowsKey(NamedTuple):
    """The rows of one place, of one version."""

    run: str
    layer: int
    well: int
    field: int
    version: str


class Rows:
    """Fetches and keeps rows.

    Parameters
    ----------
    source
        Where they are.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._kept: OrderedDict[RowsKey, pd.DataFrame | None] = OrderedDict()
        """None for those that could not be had."""
        self._flying: dict[RowsKey, Future[pa.Table]] = {}
        self._news = False
        self._closed = False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="openhcs-viewer-rows")

    def get(self, keys: Iterable[RowsKey]) -> dict[RowsKey, pd.DataFrame]:
        """Return the rows that are there and begin to fetch others; call again when there is news."""
        found: dict[RowsKey, pd.DataFrame] = {}
        asked: list[tuple[RowsKey, Future[pa.Table]]] = []
        with self._lock:
            for key in keys:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    frame = self._kept[key]
                    if frame is not None:
                        found[key] = frame
                elif key not in self._flying and len(self._flying) < _FLYING and not self._closed:
                    request = TableRequest(run=key.run, layer=key.layer, well=key.well, field=key.field)
                    future = self._source.fetch_table(request)
                    self._flying[key] = future
                    asked.append((key, future))
        for key, future in asked:
            future.add_done_callback(partial(self._done, key))
        return found

    def take_news(self) -> bool:
        """Tell whether rows have arrived since the last call."""
        with self._lock:
            news, self._news = self._news, False
        return news

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        with self._lock:
            return not self._flying

    def close(self) -> None:
        """Withdraw requests and end the thread."""
        with self._lock:
            self._closed = True
            flying = list(self._flying.values())
        for future in flying:
            future.cancel()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _done(self, key: RowsKey, future: Future[pa.Table]) -> None:
        with self._lock:
            if future.cancelled():
                self._flying.pop(key, None)
            elif not self._closed:
                self._worker.submit(self._keep, key, future)

    def _keep(self, key: RowsKey, future: Future[pa.Table]) -> None:
        frame: pd.DataFrame | None = None
        try:
            frame = future.result().to_pandas()
        except Exception as error:  # noqa: BLE001  # whatever a table's trouble is, the others are fetched
            _log.warning("A table cannot be shown: %s", error)
        with self._lock:
            self._kept[key] = frame
            while len(self._kept) > _KEPT_PLACES:
                self._kept.popitem(last=False)
            self._flying.pop(key, None)
            self._news = True
