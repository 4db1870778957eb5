"""Opens the viewer on the laptop for a remote kernel, and keeps its connection file."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

from openhcs_jupyter.kernel.words import Shown, View
from openhcs_jupyter.streaming.keys import FILE_VERSION, ConnectionFile, Endpoint, KeyPair, machine, write_private


class Windows:
    """The window of one remote kernel.

    Parameters
    ----------
    host
        The kernel's machine, for people.
    place
        A folder for sockets and the connection file.
    forward
        Has SSH forward sockets here to sockets there; tells whether it does.
    log
        Is told of windows that fail.
    """

    def __init__(
        self,
        host: str,
        place: Path,
        forward: Callable[[Mapping[str, str]], bool],
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._log = log
        self._host = host
        self._place = place
        self._forward = forward
        self._window: subprocess.Popen[bytes] | None = None

    @property
    def connection_file(self) -> Path:
        """What a viewer here opens."""
        return self._place / "connection.json"

    def show(self, view: View) -> Shown:
        """Forward the kernel's stream and open a window where one is wanted and none is open."""
        here = {"control": str(self._place / "control"), "news": str(self._place / "news")}
        if not self._forward({here["control"]: view.control, here["news"]: view.news}):
            return Shown(number=view.number, error=f"ssh does not forward the stream from {self._host}.")
        nobody = KeyPair(public="", secret="")
        endpoint = Endpoint(control=f"ipc://{here['control']}", news=f"ipc://{here['news']}")
        write_private(
            self.connection_file,
            ConnectionFile(
                version=FILE_VERSION,
                name=self._host,
                machine=machine(),
                endpoints=(endpoint,),
                server_key="",
                viewer=nobody,
            ),
        )
        if self._window is not None and self._window.poll() is None:
            return Shown(number=view.number)
        if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
            return Shown(number=view.number, error="Jupyter has no screen there.")
        if find_spec("napari") is None:
            install = f"{sys.executable} -m pip install 'openhcs-jupyter[viewer]'"
            return Shown(number=view.number, error=f"napari is not installed there: {install}")
        with (self._place / "viewer.log").open("wb") as log:
            self._window = subprocess.Popen(  # noqa: S603 - our own words, and no shell
                [sys.executable, "-m", "openhcs_jupyter.cli", "viewer", str(self.connection_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        threading.Thread(target=self._watch, args=(self._window,), name="openhcs-window", daemon=True).start()
        return Shown(number=view.number)

    def _watch(self, window: subprocess.Popen[bytes]) -> None:
        """Tell Jupyter's log why a window ended that was not closed."""
        log = self._place / "viewer.log"
        if window.wait() and log.exists():  # the kernel was shut down before, otherwise
            said = log.read_text(errors="replace").strip().splitlines()
            self._log.warning("The viewer of the kernel on %s ended: %s", self._host, said[-1] if said else "")
