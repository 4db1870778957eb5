"""Asks a process that has imported what units need for workers, which it forks from itself in milliseconds."""

from __future__ import annotations

import atexit
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from openhcs_jupyter.config import ONE_THREAD
from openhcs_jupyter.engine import forking
from openhcs_jupyter.engine.forking import ANSWER, DISMISS, EXPECT, FORK, IMPORT, REAP, TRY
from openhcs_jupyter.errors import RunError

_TRIES = 4
_PROGRAM = """
import socket, sys
from openhcs_jupyter.engine.forking import serve
serve(socket.socket(fileno=int(sys.argv[1])))
"""


class _Branch:
    """What `subprocess.Popen` is for a started process, for one that was forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._ended = False

    def poll(self) -> int | None:
        """Tell whether it has ended."""
        with suppress(ChildProcessError):
            self._ended = self._ended or os.waitpid(self.pid, os.WNOHANG)[0] != 0
        return 0 if self._ended else None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""
        if self.poll() is None:
            descriptor = os.pidfd_open(self.pid)
            ended = select.select([descriptor], [], [], timeout)[0]
            os.close(descriptor)
            if not ended:
                raise subprocess.TimeoutExpired("fork server", timeout or 0)
            self.poll()
        return 0

    def kill(self) -> None:
        """Kill it."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The client's side: starts the process when it is needed, and asks it for workers. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | _Branch | None = None
        self._control: socket.socket | None = None
        self._output: list[int] = []
        """Where workers write, if it is not where the process writes that they are forked from."""
        self._greeted = False
        self._deaths = 0
        """Processes that ended, one after the other, before they had imported."""

    def start(self, expected: Sequence[str] = ()) -> None:
        """Start the process if it does not run; it imports in the background what all need.

        Parameters
        ----------
        expected
            Modules that a run will need: they are imported next, as long as there are no workers.
        """
        with self._lock:
            control = self._ensure()
            if expected:
                with suppress(OSError):  # whoever needs it next starts another one
                    control.sendall(_named(EXPECT, expected))

    def branch(self, *not_its_own: socket.socket) -> None:
        """Fork the process from this one, which has no threads yet: what it has imported need not be imported again.

        Parameters
        ----------
        *not_its_own
            Sockets of this process that neither the other one nor its workers are to have.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            for end in (ours, *not_its_own):
                end.close()
            os.setsid()
            os.environ.update(ONE_THREAD)
            forking.serve(theirs)
        theirs.close()
        self._process, self._control = _Branch(pid), ours
        self._output = [1, 2]  # this process may get others

    def ready(self, timeout: float) -> bool:
        """Start the process if it does not run, and tell whether it has imported; waits for it up to `timeout` s."""
        with self._lock:
            control = self._ensure()
            if self._greeted or not select.select([control], [], [], timeout)[0]:
                return self._greeted
            try:
                self._greet(control)
            except OSError as error:
                self._stop()  # it was killed, perhaps; the next look starts another one
                self._deaths += 1
                if self._deaths >= _TRIES:
                    self._deaths = 0
                    raise _ended() from error
            return self._greeted

    def fork(self, connection: int, status: int, *, stays: bool = False) -> int:
        """Fork a worker.

        Parameters
        ----------
        connection
            File descriptor of the worker's end of a socket pair.
        status
            File descriptor of the memory in which it notes what it is doing.
        stays
            Dismissed, it waits for the next run, and is the quicker there.

        Returns
        -------
        int
            The worker's process id.
        """
        message = (TRY if stays else FORK) + ANSWER.pack(0)
        return self._ask(lambda control: socket.send_fds(control, [message], [connection, status, *self._output]))

    def load(self, modules: Sequence[str]) -> None:
        """Import modules once, before workers are forked that need them."""
        if not modules:
            return
        self._ask(lambda control: control.sendall(_named(IMPORT, modules)))

    def reap(self, pid: int) -> int:
        """End a worker, if it has not ended, and return how: an exit status, or the signal's number, negative."""
        with self._lock:
            if self._control is None:
                return -signal.SIGKILL
            try:
                self._control.sendall(REAP + ANSWER.pack(pid))
                return self._answer(self._control)
            except OSError:
                self._stop()
                return -signal.SIGKILL  # workers die with their server

    def dismiss(self, pid: int) -> None:
        """End a worker without waiting for its end."""
        with self._lock, suppress(OSError):  # workers die with their server
            if self._control is not None:
                self._control.sendall(DISMISS + ANSWER.pack(pid))

    def stop(self) -> None:
        """End the process and all its workers."""
        with self._lock:
            self._stop()

    def _ask(self, send: Callable[[socket.socket], object]) -> int:
        """Send a message and return its answer; if the process has just been killed, ask another one."""
        with self._lock:
            for tries in range(1, _TRIES + 1):
                try:
                    control = self._ensure()
                    send(control)
                    return self._answer(control)
                except OSError as error:
                    self._stop()
                    if tries == _TRIES:
                        raise _ended() from error
            raise AssertionError

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._control is None:
            ours, theirs = socket.socketpair()
            # It finds this package also where only the session's sys.path leads to it.
            path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
            environment = os.environ | ONE_THREAD | {"PYTHONPATH": path}
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )
            theirs.close()
            self._control = ours
        return self._control

    def _greet(self, control: socket.socket) -> None:
        """Take the answer that the process gives unasked when it has imported."""
        self._read(control)
        self._greeted = True
        self._deaths = 0

    def _answer(self, control: socket.socket) -> int:
        if not self._greeted:
            self._greet(control)
        return self._read(control)

    def _read(self, control: socket.socket) -> int:
        data = b""
        while len(data) < ANSWER.size:
            part = control.recv(ANSWER.size - len(data))
            if not part:
                self._stop()
                raise ConnectionError("the process that starts workers has ended")
            data += part
        answer: int = ANSWER.unpack(data)[0]
        return answer

    def _stop(self) -> None:
        if self._process is not None and not self._greeted:
            self._process.kill()  # it imports, has no workers, and would not listen
        self._greeted = False
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


def _named(what: bytes, modules: Sequence[str]) -> bytes:
    names = ",".join(modules).encode()
    return what + ANSWER.pack(len(names)) + names


_server = ForkServer()
atexit.register(_server.stop)
os.register_at_fork(after_in_child=lambda: _server.__init__())  # type: ignore[misc]  # a child has no server of its own


def _ended() -> RunError:
    return RunError(
        "No worker can be started: the process that forks them ends at once.",
        f"What it says: {sys.executable} -c 'import openhcs_jupyter.engine.forkserver'",
    )


def fork_server() -> ForkServer:
    """Return this process's fork server."""
    return _server
