"""``%openhcs view`` and ``--view``: serves this kernel's runs to napari windows, here or on the user's own machine."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.magics.views.render import Rendered, card, code, escape
from openhcs_jupyter.widgets.session import is_watched

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.kernel.line import Line
    from openhcs_jupyter.magics.follow import Pause
    from openhcs_jupyter.streaming import StreamServer
    from openhcs_jupyter.streaming.keys import Invitation

_SUFFIX = ".openhcs"
_ANSWER_S, _WINDOW_S, _TICK_S = 3.0, 10.0, 0.05
_CALLER = "kernel"


class Viewing:
    """Serves the viewers of one kernel, from when they are first wanted.

    Parameters
    ----------
    shell
        The kernel's.
    line
        To the laptop that started this kernel.
    """

    def __init__(self, shell: Any, line: Line | None = None) -> None:
        self._shell = shell
        self._line = line
        self._server: StreamServer | None = None
        self._window: subprocess.Popen[bytes] | None = None

    async def view(self, run: Run, pause: Pause, viewer: tuple[str, int] | None = None) -> Rendered:
        """Show a run in a window: one that is open, one that listens where the settings say, or a new one.

        Parameters
        ----------
        run
            The run.
        pause
            How to wait for the window's answer.
        viewer
            Host and port of a listening viewer; None is the one of the settings.

        Raises
        ------
        StreamError
            If viewers cannot be served, or the settings name a viewer that is not known yet.
        """
        from openhcs_jupyter.config import load_settings

        server = self._serve()
        server.show(run.folder)
        settings = load_settings()
        if viewer is None and settings.viewer_host:
            viewer = (settings.viewer_host, settings.viewer_port)
        if viewer is not None:
            from openhcs_jupyter.streaming.known import known_viewer

            return await self._called(known_viewer(*viewer), run, pause)
        if self._line is not None and self._line.is_attached and is_watched(self._shell):
            return await self._on_the_laptop(self._line, run, pause)
        if self._opens_windows():
            if server.viewers == 0 and (self._window is None or self._window.poll() is not None):
                self._open(server.connection_file)
            return _told(f"{run.name} is shown in the viewer on this machine.", [])
        return _told(f"{run.name} can be viewed.", lines(server.connection_file))

    async def call(self, line: str, run: Run, pause: Pause) -> Rendered:
        """Show a run in the window whose listening viewer printed a line.

        Raises
        ------
        StreamError
            If it is no such line, or viewers cannot be served.
        """
        from openhcs_jupyter.streaming.keys import read_invitation
        from openhcs_jupyter.streaming.known import remember_viewer

        invitation = read_invitation(line)
        self._serve().show(run.folder)
        remember_viewer(invitation)
        return await self._called(invitation, run, pause)

    def take_up(self) -> None:
        """Serve again what this kernel served before it was restarted, if it did; returns at once."""
        folder = self._folder()
        if folder is not None and folder.is_dir():
            threading.Thread(target=self._try, name="openhcs-take-up", daemon=True).start()

    def _try(self) -> None:
        with suppress(OpenHCSError):  # whoever wants to view something is told
            self._serve()

    def _serve(self) -> StreamServer:
        if self._server is None:
            from openhcs_jupyter.config import load_settings
            from openhcs_jupyter.streaming import StreamServer
            from openhcs_jupyter.streaming.keys import kept_keys, runtime_folder

            settings = load_settings()
            folder = self._folder()
            if folder is None:
                folder = runtime_folder() / f"ipython-{os.getpid()}"
                atexit.register(shutil.rmtree, folder, ignore_errors=True)
            else:
                _sweep(folder.parent)
            server = StreamServer(
                folder,
                name=f"{getpass.getuser()}@{socket.gethostname()}",
                host=settings.stream_host,
                port=settings.stream_port,
                keys=kept_keys(_CALLER),
            )
            server.start()
            atexit.register(server.close)
            self._server = server
        return self._server

    async def _called(self, invitation: Invitation, run: Run, pause: Pause) -> Rendered:
        server = self._serve()
        server.call(invitation)
        where = f"{invitation.host}:{invitation.port}"
        left = _ANSWER_S
        while not server.is_called(invitation) and left > 0:
            await pause(_TICK_S)
            left -= _TICK_S
        if server.is_called(invitation):
            return _told(f"{run.name} is shown in the viewer at {where}.", [])
        return _told(
            f"The viewer at {where} has not answered yet; {run.name} is shown when it does.",
            ["Is it open, does it let this kernel in, and does the firewall?"],
        )

    async def _on_the_laptop(self, line: Line, run: Run, pause: Pause) -> Rendered:
        server = self._serve()
        control, news = (path.removeprefix("ipc://") for path in (server.local.control, server.local.news))
        answer = line.ask(control, news)
        left = _WINDOW_S
        while (shown := answer()) is None and left > 0:
            await pause(_TICK_S)
            left -= _TICK_S
        if shown is None or shown.error:
            why = shown.error if shown is not None else "it does not answer"
            return _told(f"No window opens on your machine: {why}", lines(server.connection_file))
        return _told(f"{run.name} is shown in the viewer on your machine.", [])

    def _opens_windows(self) -> bool:
        screen = sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
        here = "SSH_CONNECTION" not in os.environ
        return screen and here and is_watched(self._shell) and find_spec("napari") is not None

    def _open(self, file: Path) -> None:
        with (file.parent / "viewer.log").open("wb") as log:
            self._window = subprocess.Popen(  # noqa: S603 - our own words, and no shell
                [sys.executable, "-m", "openhcs_jupyter.cli", "viewer", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _folder(self) -> Path | None:
        """Return where this kernel's keys lie: beside its connection file, which outlives a restart."""
        application = getattr(getattr(self._shell, "kernel", None), "parent", None)
        file = getattr(application, "abs_connection_file", None)
        return Path(file).with_suffix(_SUFFIX) if file else None


def lines(file: Path) -> list[str]:
    """Return what is pasted into a terminal to view what a connection file stands for: here, and through SSH."""
    there = f"{getpass.getuser()}@{socket.gethostname()}:{file}"
    return [
        "On this machine:",
        f"openhcs-jupyter viewer {file}",
        "On another one that reaches it by SSH:",
        f"openhcs-jupyter viewer {there}",
    ]


def _sweep(place: Path) -> None:
    """Remove what kernels left that have gone for good."""
    for folder in place.glob(f"*{_SUFFIX}"):
        if not folder.with_suffix(".json").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _told(title: str, body: list[str]) -> Rendered:
    marked = [code(line) if line.startswith("openhcs-jupyter") else escape(line) for line in body]
    return Rendered("\n".join([title, *(f"  {line}" for line in body)]), card(escape(title), marked))
