"""Opens the viewer on the laptop for a remote kernel, and keeps its connection file."""

from __future__ import annotations

import subprocess
import sys
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
    """

    def __init__(self, host: str, place: Path, forward: Callable[[Mapping[str, str]], bool]) -> None:
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
        if not view.opens or (self._window is not None and self._window.poll() is None):
            return Shown(number=view.number)
        if find_spec("napari") is None:
            install = f"{sys.executable} -m pip install 'openhcs-jupyter[viewer]'"
            return Shown(number=view.number, error=f"napari is not installed there: {install}")
        with (self._place / "viewer.log").open("wb") as log:
            self._window = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "openhcs_jupyter.cli", "viewer", str(self.connection_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Shown(number=view.number)
