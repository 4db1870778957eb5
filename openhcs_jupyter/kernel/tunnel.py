"""The laptop's end of a remote kernel: keeps the connection, what it forwards, and the line to the kernel."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import RemoteError
from openhcs_jupyter.kernel.relay import Relay
from openhcs_jupyter.kernel.requests import Requests
from openhcs_jupyter.kernel.ssh import Host
from openhcs_jupyter.kernel.words import PING_S, Again, Ear, Hello, Ping, Shown, Told, View, Word, encode

_AGAIN_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_LONGEST_PIECE = 1 << 16
_ASK_S = 0.3


class Tunnel:
    """Keeps a remote kernel reachable, in a thread: whatever is cut is joined again.

    Parameters
    ----------
    host
        The kernel's machine.
    forwards
        Addresses there by addresses here.
    line
        The socket here that is forwarded to the kernel's line.
    relay
        Passes the kernel's output on.
    requests
        Passes cells on to the kernel.
    view
        Called where the kernel wants something shown, in the thread; returns the answer.
    log
        Is told of cuts.
    """

    def __init__(
        self,
        host: Host,
        forwards: Mapping[str, str],
        line: Path,
        relay: Relay,
        requests: Requests,
        view: Callable[[View], Shown],
        log: logging.Logger | logging.LoggerAdapter[logging.Logger],
    ) -> None:
        self._host = host
        self._forwards = dict(forwards)
        self._line = line
        self._relay = relay
        self._requests = requests
        self._view = view
        self._log = log
        self._end = threading.Event()
        self._socket: socket.socket | None = None
        self.is_linked = False
        """The kernel answers."""
        self.is_connected = True
        """SSH reaches the machine."""
        self._thread = threading.Thread(target=self._keep, name="openhcs-tunnel", daemon=True)

    def open(self) -> None:
        """Forward what is to be forwarded, and keep it so.

        Raises
        ------
        RemoteError
            If it cannot be forwarded.
        """
        if not self._forward():
            raise RemoteError(
                f"ssh does not forward connections to {self._host.name}.",
                "Its server must allow it: AllowTcpForwarding and AllowStreamLocalForwarding in sshd_config.",
            )
        self._thread.start()

    def add(self, forwards: Mapping[str, str]) -> bool:
        """Forward more; tells whether it worked at once. It is forwarded again after each cut, too."""
        self._forwards |= forwards
        return self._forward()

    def close(self) -> None:
        """Forward no longer."""
        self._end.set()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        with suppress(RemoteError):
            self._host.cancel(self._forwards)
        for here in self._forwards:
            if here.startswith("/"):
                Path(here).unlink(missing_ok=True)

    def _keep(self) -> None:
        tries = 0
        while not self._end.is_set():
            try:
                if self._is_cut():
                    self.is_connected = self._connect()
                    if self.is_connected:
                        self._relay.hold()
                        self.is_connected = self._forward()
                        self._requests.again()
                if self.is_connected and self._talk():
                    tries = 0
            except Exception:  # noqa: BLE001 - whatever it was, the next try may succeed
                self._log.exception("The tunnel to %s", self._host.name)
            self._end.wait(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
            tries += 1

    def _is_cut(self) -> bool:
        """Tell whether what is forwarded is forwarded no longer."""
        return not (self.is_connected and self._host.is_connected() and _listens(str(self._line)))

    def _connect(self) -> bool:
        try:
            return self._host.attempt("true", timeout=30).returncode == 0
        except RemoteError:
            return False

    def _forward(self) -> bool:
        for here in self._forwards:
            if here.startswith("/") and Path(here).exists() and not _listens(here):
                Path(here).unlink(missing_ok=True)  # of a connection that is gone
        return self._host.forward(self._forwards)

    def _talk(self) -> bool:
        """Speak with the kernel until the line is cut; tells whether it has answered."""
        with socket.socket(socket.AF_UNIX) as line:
            self._socket = line
            line.settimeout(PING_S)
            try:
                line.connect(str(self._line))
                line.sendall(encode(Hello()))
                self._listen(line)
            except (OSError, msgspec.MsgspecError) as error:
                self._log.debug("The line to the kernel on %s: %s", self._host.name, error)
            finally:
                self._socket = None
                answered, self.is_linked = self.is_linked, False
        return answered

    def _listen(self, line: socket.socket) -> None:
        ear, pinged, asked = Ear(), time.monotonic(), 0.0
        while not self._end.is_set():
            line.settimeout(_ASK_S if self._relay.is_holding else PING_S)
            with suppress(TimeoutError):
                piece = line.recv(_LONGEST_PIECE)
                if not piece:
                    return
                self.is_linked = True
                for word in ear.hear(piece):
                    self._take(line, word)
            now = time.monotonic()
            if self._relay.is_holding and now - asked >= _ASK_S:
                self._relay.wait_on()
                line.sendall(encode(Again(since=self._relay.last)))
                asked = now
            if now - pinged >= PING_S - 0.1:
                line.sendall(encode(Ping()))
                pinged = now

    def _take(self, line: socket.socket, word: Word) -> None:
        if isinstance(word, Told):
            self._relay.resume_from(word.first)
        elif isinstance(word, View):
            line.sendall(encode(self._view(word)))


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        return probe.connect_ex(path) == 0
