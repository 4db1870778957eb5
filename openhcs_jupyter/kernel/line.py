"""The kernel's end of the line to the laptop: asks for windows, and ends a kernel whose user has gone for good."""

from __future__ import annotations

import atexit
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from openhcs_jupyter.kernel.keeper import IDLE, KEEPER, LINE
from openhcs_jupyter.kernel.record import Record
from openhcs_jupyter.kernel.words import GONE_S, Again, Ear, Hello, Ping, Shown, Told, View, Word, encode

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_TICK_S = 1.0
_LONGEST_PIECE = 1 << 16
_ENDS_S = 10.0


class Line:
    """Listens for the laptop, in a thread.

    Parameters
    ----------
    path
        Of the socket.
    idle_s
        After so long without a laptop and without work the kernel ends; 0 is never.
    is_busy
        Tells whether something runs.
    end
        Ends the kernel.
    record
        What the kernel has said of late.
    """

    def __init__(
        self, path: Path, idle_s: float, is_busy: Callable[[], bool], end: Callable[[], None], record: Record
    ) -> None:
        self._path = path
        self._idle_s = idle_s
        self._is_busy = is_busy
        self._end = end
        self._record = record
        self._laptops: dict[socket.socket, Ear] = {}
        self._heard = 0.0
        self._needed = time.monotonic()
        self._number = 0
        self._answers: dict[int, Shown] = {}
        self._thread = threading.Thread(target=self._serve, name="openhcs-line", daemon=True)

    @property
    def is_attached(self) -> bool:
        """Whether the laptop is there."""
        return bool(self._laptops) and time.monotonic() - self._heard < GONE_S

    def start(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen()
        self._thread.start()

    def ask(self, control: str, news: str) -> Callable[[], Shown | None]:
        """Ask the laptop to show what these sockets serve; what is returned gives its answer, or None before."""
        self._number += 1
        number = self._number
        for laptop in list(self._laptops):
            self._say(laptop, View(number=number, control=control, news=news))
        return lambda: self._answers.pop(number, None)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as ready, self._listener:
            ready.register(self._listener, selectors.EVENT_READ)
            while True:
                for key, _ in ready.select(_TICK_S):
                    if key.fileobj is self._listener:
                        laptop, _address = self._listener.accept()
                        laptop.settimeout(_TICK_S)
                        self._laptops[laptop] = Ear()
                        ready.register(laptop, selectors.EVENT_READ)
                    elif isinstance(key.fileobj, socket.socket) and not self._hear(key.fileobj):
                        ready.unregister(key.fileobj)
                        del self._laptops[key.fileobj]
                        key.fileobj.close()
                now = time.monotonic()
                if self.is_attached or self._is_busy():
                    self._needed = now
                elif 0 < self._idle_s < now - self._needed:
                    self._end()
                    return

    def _hear(self, laptop: socket.socket) -> bool:
        """Take what a laptop says; tells whether it is still there."""
        try:
            piece = laptop.recv(_LONGEST_PIECE)
            words = self._laptops[laptop].hear(piece)
            for word in words:
                self._heard = time.monotonic()
                if isinstance(word, Hello | Ping):
                    laptop.sendall(encode(Ping()))
                elif isinstance(word, Again):
                    self._record.again(word.since, lambda first: self._say(laptop, Told(first=first)))
                elif isinstance(word, Shown):
                    self._answers[word.number] = word
        except (OSError, msgspec.MsgspecError):
            return False
        return bool(piece)

    @staticmethod
    def _say(laptop: socket.socket, word: Word) -> None:
        with suppress(OSError):  # it is gone, and will ask again
            laptop.sendall(encode(word))


def line_of(shell: InteractiveShell) -> Line | None:
    """Listen for the laptop if this kernel was started from one; None for other kernels."""
    path = os.environ.get(LINE)
    kernel = getattr(shell, "kernel", None)
    if not path or kernel is None or os.environ.get(KEEPER) != str(os.getppid()):
        return None  # what a remote kernel starts inherits its environment
    cells = _Cells()
    shell.events.register("pre_execute", cells.begin)
    shell.events.register("post_execute", cells.finish)
    line = Line(
        Path(path),
        float(os.environ[IDLE]),
        lambda: cells.is_running or _conducts(),
        lambda: _end(kernel),
        Record(kernel),
    )
    line.start()
    return line


class _Cells:
    """Knows whether a cell is being executed."""

    def __init__(self) -> None:
        self.is_running = False

    def begin(self) -> None:
        self.is_running = True

    def finish(self) -> None:
        self.is_running = False


def _conducts() -> bool:
    """Tell whether this process conducts a run; one that never did has not imported the engine."""
    engine = sys.modules.get("openhcs_jupyter.engine.running")
    return engine is not None and bool(engine.conducted())


def _end(kernel: Any) -> None:
    """End the kernel as a shutdown does; one that does not end is killed."""
    atexit.register(_dismiss)
    loop = kernel.io_loop
    loop.add_callback(loop.stop)
    killer = threading.Timer(_ENDS_S, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()


def _dismiss() -> None:
    """Tell the keeper that no other kernel follows; there is no laptop that would say so."""
    if os.environ.get(KEEPER) == str(os.getppid()):
        os.kill(os.getppid(), signal.SIGTERM)
