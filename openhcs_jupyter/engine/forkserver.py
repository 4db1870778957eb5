"""A small process that has imported what units need, and forks workers from itself in milliseconds.

Forking from the kernel would copy its threads' locks in whatever state they are; starting a fresh interpreter for every
worker would cost a second each. This process has one thread, imports the numerical libraries once, and shares their
memory with all workers. When the process that started it ends, however it ends, it ends its workers and itself.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from openhcs_jupyter.errors import RunError

_PRELOAD = (
    "numpy",
    "cv2",
    "pandas",
    "pyarrow",
    "pyarrow.ipc",
    "scipy.ndimage",
    "tifffile",
    "imagecodecs",
    "openhcs_jupyter.functions._kernels",
    "openhcs_jupyter.repository.embedded.pixels",
    "openhcs_jupyter.repository.embedded.results",
    "openhcs_jupyter.engine.worker",
)
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
_PROGRAM = """
import socket, sys
from openhcs_jupyter.engine.forkserver import serve
serve(socket.socket(fileno=int(sys.argv[1])))
"""
_FORK, _REAP, _DISMISS, _IMPORT = b"F", b"R", b"D", b"I"
_ANSWER = struct.Struct("<q")
_KEEP_MEMORY = ((-3, 1 << 30), (-1, (1 << 31) - 1), (-2, 1 << 26), (-8, 1))
"""glibc's M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD and M_ARENA_MAX."""
_PR_SET_PDEATHSIG = 1


class ForkServer:
    """The client's side: starts the process when it is needed, and asks it for workers. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._greeted = False

    def start(self) -> None:
        """Start the process if it does not run; it imports in the background."""
        with self._lock:
            self._ensure()

    def ready(self, timeout: float) -> bool:
        """Start the process if it does not run, and tell whether it has imported; waits for it up to `timeout` s."""
        with self._lock:
            control = self._ensure()
            return self._greeted or (bool(select.select([control], [], [], timeout)[0]) and self._greet(control))

    def fork(self, connection: int, status: int) -> int:
        """Fork a worker.

        Parameters
        ----------
        connection
            File descriptor of the worker's end of a socket pair.
        status
            File descriptor of the memory in which it notes what it is doing.

        Returns
        -------
        int
            The worker's process id.
        """
        return self._ask(lambda control: socket.send_fds(control, [_FORK + _ANSWER.pack(0)], [connection, status]))

    def load(self, modules: Sequence[str]) -> None:
        """Import modules once, before workers are forked that need them."""
        if not modules:
            return
        names = ",".join(modules).encode()
        self._ask(lambda control: control.sendall(_IMPORT + _ANSWER.pack(len(names)) + names))

    def reap(self, pid: int) -> int:
        """End a worker, if it has not ended, and return how: an exit status, or the signal's number, negative."""
        with self._lock:
            if self._control is None:
                return -signal.SIGKILL
            try:
                self._control.sendall(_REAP + _ANSWER.pack(pid))
                return self._answer(self._control)
            except OSError:
                self._stop()
                return -signal.SIGKILL  # workers die with their server

    def dismiss(self, pid: int) -> None:
        """End a worker without waiting for its end."""
        with self._lock, suppress(OSError):  # workers die with their server
            if self._control is not None:
                self._control.sendall(_DISMISS + _ANSWER.pack(pid))

    def stop(self) -> None:
        """End the process and all its workers."""
        with self._lock:
            self._stop()

    def _ask(self, send: Callable[[socket.socket], object]) -> int:
        """Send a message and return its answer; if the process has just been killed, ask another one."""
        with self._lock:
            try:
                control = self._ensure()
                send(control)
                return self._answer(control)
            except OSError:
                self._stop()
            try:
                control = self._ensure()
                send(control)
                return self._answer(control)
            except OSError as error:
                raise _ended() from error

    def _ensure(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._stop()
        if self._control is None:
            ours, theirs = socket.socketpair()
            # It finds this package also where only the session's sys.path leads to it.
            path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
            environment = os.environ | dict.fromkeys(_ONE_THREAD, "1") | {"PYTHONPATH": path}
            command = [sys.executable, "-c", _PROGRAM, str(theirs.fileno())]
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                command, pass_fds=[theirs.fileno()], env=environment, start_new_session=True, stdin=subprocess.DEVNULL
            )
            theirs.close()
            self._control = ours
        return self._control

    def _greet(self, control: socket.socket) -> bool:
        """Take the answer that the process gives unasked when it has imported."""
        try:
            self._read(control)
        except OSError as error:
            raise _ended() from error
        self._greeted = True
        return True

    def _answer(self, control: socket.socket) -> int:
        if not self._greeted:
            self._greet(control)
        return self._read(control)

    def _read(self, control: socket.socket) -> int:
        data = b""
        while len(data) < _ANSWER.size:
            part = control.recv(_ANSWER.size - len(data))
            if not part:
                self._stop()
                raise ConnectionError("the process that starts workers has ended")
            data += part
        answer: int = _ANSWER.unpack(data)[0]
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


def serve(control: socket.socket) -> NoReturn:
    """Fork and reap workers until the other side closes `control`."""
    _import(_PRELOAD)
    control.sendall(_ANSWER.pack(0))
    workers: set[int] = set()
    dismissed: set[int] = set()
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, 1 + _ANSWER.size, 2)
        except OSError:
            message = b""
        if not message:
            break
        if message[:1] == _FORK:
            pid = os.fork()
            if pid == 0:
                control.close()
                _work(*descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            workers.add(pid)
            control.sendall(_ANSWER.pack(pid))
        elif message[:1] == _IMPORT:
            names = control.recv(_ANSWER.unpack(message[1:])[0], socket.MSG_WAITALL)
            _import(names.decode().split(","))
            control.sendall(_ANSWER.pack(0))
        elif message[:1] == _DISMISS:
            pid = _ANSWER.unpack(message[1:])[0]
            if pid in workers:
                workers.discard(pid)
                os.kill(pid, signal.SIGKILL)
                dismissed.add(pid)
        else:
            pid = _ANSWER.unpack(message[1:])[0]
            control.sendall(_ANSWER.pack(_end(pid) if pid in workers else -signal.SIGKILL))
            workers.discard(pid)
        dismissed -= {pid for pid in dismissed if os.waitpid(pid, os.WNOHANG)[0]}
    for pid in workers:
        _end(pid)
    os._exit(0)


def _import(modules: Iterable[str]) -> None:
    new = [module for module in modules if module not in sys.modules]
    if not new:
        return
    for module in new:
        with suppress(Exception):  # whoever needs it is told so where it does
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _end(pid: int) -> int:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _keep_memory() -> None:
    """Tell the allocator to keep what arrays give back: getting it from the system anew costs a third of the time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter, value in _KEEP_MEMORY:
            mallopt(parameter, value)


def _work(connection: int, status: int) -> NoReturn:
    from openhcs_jupyter.engine.worker import work

    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _keep_memory()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        work(connection, status)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
