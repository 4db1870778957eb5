"""Results on their way to a viewer: what it is told, how it asks for planes, and what answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.streaming.folder import FolderSource
    from openhcs_jupyter.streaming.listening import ListeningSource
    from openhcs_jupyter.streaming.opening import open_source
    from openhcs_jupyter.streaming.remote import RemoteSource
    from openhcs_jupyter.streaming.server import StreamServer
    from openhcs_jupyter.streaming.source import Plane, PlaneRequest, Priority, Source, TableRequest

__all__ = [
    "FolderSource",
    "ListeningSource",
    "Plane",
    "PlaneRequest",
    "Priority",
    "RemoteSource",
    "Source",
    "StreamServer",
    "TableRequest",
    "open_source",
]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "folder": ["FolderSource"],
        "listening": ["ListeningSource"],
        "opening": ["open_source"],
        "remote": ["RemoteSource"],
        "server": ["StreamServer"],
        "source": ["Plane", "PlaneRequest", "Priority", "Source", "TableRequest"],
    },
)
