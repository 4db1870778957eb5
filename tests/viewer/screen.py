"""A screen of the tests' own, and real napari windows on it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from openhcs_jupyter.streaming import Source, open_source

T = TypeVar("T")
ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artefacts"
SIZE = (1500, 950)
LONGEST_S = 60.0


@contextmanager
def start_xvfb(*, lasting: bool = False) -> Iterator[dict[str, str]]:
    """Start Xvfb on a free display and give the variables that name it; it ends after its last window's process.

    `lasting` lets it live on when its last window is gone.
    """
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1600x1000x24", "-nolisten", "tcp"]
    command += [] if lasting else ["-terminate"]
    server = subprocess.Popen(command, pass_fds=[write], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as told:
        number = told.readline().strip()
    assert number, "Xvfb does not start"
    try:
        yield {"DISPLAY": f":{number}", "QT_QPA_PLATFORM": "xcb"}
    finally:
        if not _is_used(number):  # Qt would end this process with its screen
            server.terminate()
            server.wait()


def grab(screen: dict[str, str], path: Path) -> np.ndarray:
    """Keep a picture of a whole screen, whichever process draws on it; returns its pixels, ``(Y, X, 3)``."""
    from PIL import ImageGrab

    picture = ImageGrab.grab(xdisplay=screen["DISPLAY"])
    picture.save(path)
    return np.asarray(picture.convert("RGB"))


@contextmanager
def xvfb() -> Iterator[str]:
    """Start Xvfb for windows of this process."""
    with start_xvfb() as variables:
        os.environ.update(variables)
        yield variables["DISPLAY"]


def _is_used(number: str) -> bool:
    from qtpy.QtWidgets import QApplication

    return QApplication.instance() is not None and os.environ.get("DISPLAY") == f":{number}"


def application() -> Any:
    """Return Qt's application; it holds the screen until this process ends."""
    from napari.qt import get_qapp

    return get_qapp()


class OpenWindow:
    """A napari window with the viewer in it.

    Parameters
    ----------
    sources
        Sources or run folders that are shown.
    """

    def __init__(self, *sources: Source | Path) -> None:
        import napari

        from openhcs_jupyter.viewer.controller import ViewerSession

        self.app = application()
        self._errors: list[BaseException] = []
        # PyQt ends the process at an error in a slot, unless there is a hook.
        sys.excepthook = self._keep_error
        self.viewer = napari.Viewer(title="OpenHCS")
        self.viewer.window._qt_window.resize(*SIZE)
        self.session = ViewerSession.of(self.viewer)
        self.panel = self.session.panel
        self._is_open = True
        for source in sources:
            self.session.add(source if isinstance(source, Source) else open_source(source))

    def _keep_error(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        self._errors.append(error)
        sys.__excepthook__(kind, error, trace)

    def turn(self) -> None:
        """Let Qt do what is due."""
        self.app.processEvents()
        if self._errors:
            raise self._errors.pop(0)

    def until(self, condition: Callable[[], T], what: str, longest_s: float = LONGEST_S) -> T:
        """Let the window work until something holds."""
        end = time.monotonic() + longest_s
        while time.monotonic() < end:
            self.turn()
            if found := condition():
                return found
            time.sleep(0.002)
        raise AssertionError(f"waited in vain for {what}")

    def until_painted(self) -> None:
        """Wait until everything that is looked at has been fetched and drawn."""
        self.session.settle(LONGEST_S)
        self.turn()

    def layer(self, name: str) -> Any:
        """Return a layer of napari by its name."""
        return self.viewer.layers[name]

    def drawn(self, name: str) -> np.ndarray:
        """Return the pixels that napari has of a layer now, of the level and region that are shown."""
        return np.asarray(self.layer(name)._slice.image.raw)

    def canvas(self) -> np.ndarray:
        """Return the picture on the screen, ``(Y, X, 4)``."""
        self.turn()
        picture: np.ndarray = self.viewer.screenshot(canvas_only=True, flash=False)
        return picture

    def keep_screenshot(self, name: str) -> Path:
        """Keep a picture of the whole window among the tests' artefacts."""
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f"viewer-{name}.png"
        self.turn()
        self.viewer.window._qt_window.grab().save(str(path))
        return path

    def close(self) -> None:
        """Close the window as a user does."""
        if self._is_open:
            self._is_open = False
            self.viewer.close()
            self.session.close()
            self.session.wait_closed(10)
            sys.excepthook = sys.__excepthook__
            self.turn()
