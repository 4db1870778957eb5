"""What napari finds through ``napari.yaml``: a reader for run folders and connection files, and the panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.streaming import open_source
from openhcs_jupyter.streaming.opening import is_source

if TYPE_CHECKING:
    from qtpy.QtWidgets import QWidget

Nothing = list[tuple[None]]
"""What a reader returns that has put its layers into the window itself."""


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], Nothing] | None:
    """Return the reader of a run's folder or a connection file; None where `path` is neither."""
    paths = [path] if isinstance(path, str) else list(path)
    return _read if paths and all(map(is_source, paths)) else None


def panel() -> QWidget:
    """Return the panel of the window in front; where no run is open yet it offers to open one."""
    import napari

    from openhcs_jupyter.viewer.controller import ViewerSession

    # What napari hands to a widget is a proxy; a session belongs to the window itself.
    return ViewerSession.of(napari.current_viewer(), dock=False).panel


def _read(path: str | Sequence[str]) -> Nothing:
    import napari

    from openhcs_jupyter.viewer.controller import ViewerSession

    viewer: Any = napari.current_viewer()
    session = ViewerSession.of(viewer)
    for one in [path] if isinstance(path, str) else path:
        session.add(open_source(Path(one)))
    return [(None,)]
