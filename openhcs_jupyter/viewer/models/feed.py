"""One source as the viewer uses it: what it says, in order, and what is fetched from it."""

from __future__ import annotations

import threading
from collections import deque

from openhcs_jupyter.streaming.layers import AnyAnnouncement, Link
from openhcs_jupyter.streaming.source import Source
from openhcs_jupyter.viewer.models.fetching import Fetcher
from openhcs_jupyter.viewer.models.planes import PlaneStore
from openhcs_jupyter.viewer.models.rows import Rows


class Feed:
    """A source that is listened to.

    Parameters
    ----------
    source
        Not started yet.
    store
        Where its planes go.
    """

    def __init__(self, source: Source, store: PlaneStore) -> None:
        self.source = source
        self.planes = Fetcher(source, store)
        self.rows = Rows(source)
        self.link: Link = "connecting"
        self.detail = ""
        self.heard: deque[AnyAnnouncement] = deque()
        """What was said and not taken yet; the source's thread adds to it, the window's takes."""
        source.start()
        self._unsubscribe = source.subscribe(self.heard.append)

    def close(self) -> threading.Thread:
        """End everything, in a thread of its own: the window does not wait for a network."""
        thread = threading.Thread(target=self._close, name="openhcs-viewer-close", daemon=True)
        thread.start()
        return thread

    def _close(self) -> None:
        self._unsubscribe()
        self.planes.close()
        self.rows.close()
        self.source.close()
