"""Opens a window of its own: ``openhcs-jupyter viewer``."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.streaming import Source, open_source

_CLOSING_S = 5.0
_SIZE = (1500, 950)


def main(argument: str | Path | Source) -> int:
    """Show runs in a window; returns when it is closed.

    Parameters
    ----------
    argument
        What `openhcs_jupyter.streaming.open_source` opens, or a source.

    Returns
    -------
    int
        Exit code, 0.

    Raises
    ------
    UsageError
        If napari is not installed, or there is no screen.
    StreamError
        If the argument cannot be opened.
    """
    if find_spec("napari") is None:
        raise UsageError("The viewer needs napari.", "Install it: pip install 'openhcs-jupyter[viewer]'.")
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UsageError(
            "There is no screen to open a window on.",
            "Run the viewer where you sit; %openhcs view prints the line to paste there.",
        )
    source = argument if isinstance(argument, Source) else open_source(argument)
    import napari

    from openhcs_jupyter.viewer.controller import ViewerSession

    viewer = napari.Viewer(title="OpenHCS")
    viewer.window.resize(*_SIZE)
    session = ViewerSession.of(viewer)
    session.add(source)
    napari.run()
    session.close()
    session.wait_closed(_CLOSING_S)
    return 0
