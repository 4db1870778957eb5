"""A small process that has imported what units need, and forks workers from itself in milliseconds.

Forking from the kernel would copy its threads' locks in whatever state they are; starting a fresh interpreter for every
worker would cost a second each. This process has one thread, imports the numerical libraries once, and shares their
memory with all workers. While nothing runs it forks some ahead, so that a run starts at once. When the process that
started it ends, however it ends, it ends its workers and itself.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NoReturn

from openhcs_jupyter.engine.allocator import keep_in_one_heap
from openhcs_jupyter.engine.needed import LIKELY, NEEDED

FORK, TRY, REAP, DISMISS, IMPORT, EXPECT = b"F", b"T", b"R", b"D", b"I", b"E"
ANSWER = struct.Struct("<q")
MOST_FILES = 4
"""That a worker is handed: its connection, its status, and where it writes its output and its errors."""

_PR_SET_PDEATHSIG = 1
_IDLE_S = 0.3
_MOST_SPARES = 4
_SPARE_BYTES = 32 << 20
_LARGE_PAGES_BYTES = 256 << 20


def most_spares() -> int:
    """Return how many workers are forked ahead."""
    return min(os.cpu_count() or 1, _MOST_SPARES)


def serve(control: socket.socket) -> NoReturn:
    """Fork and end workers until the other side closes `control`."""
    keep_in_one_heap()
    gc.disable()  # what is imported stays; looking through it all again and again is a tenth of the time
    _import(NEEDED)
    with suppress(Exception):  # a worker says what is amiss
        _warm_up()
    with suppress(OSError):  # who started it has ended already, and so does this
        control.sendall(ANSWER.pack(0))
    _Server(control).run()
    os._exit(0)


class _Server:
    """Does what it is asked, a message at a time."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._spares = _Spares(control)
        self._workers: set[int] = set()
        self._dismissed: set[int] = set()
        self._expected: list[str] = []
        self._likely = [module for module in LIKELY if module not in sys.modules]

    def run(self) -> None:
        while True:
            if self._expected and not self._workers and self._is_idle(0):
                self._import([self._expected.pop(0)])
                continue
            if not self._workers and (self._likely or not self._spares.are_enough) and self._is_idle():
                if not self._likely:
                    self._spares.add()
                while self._likely and self._is_idle(0):
                    _import([self._likely.pop(0)])
                continue
            try:
                message, descriptors, _, _ = socket.recv_fds(self._control, 1 + ANSWER.size, MOST_FILES)
            except OSError:
                message = b""
            if not message:
                break
            self._do(message[:1], ANSWER.unpack(message[1:])[0], descriptors)
            self._dismissed -= {pid for pid in self._dismissed if os.waitpid(pid, os.WNOHANG)[0]}
        self._spares.end()
        for pid in self._workers:
            _end(pid)

    def _is_idle(self, seconds: float = _IDLE_S) -> bool:
        return not select.select([self._control], [], [], seconds)[0]

    def _do(self, what: bytes, number: int, descriptors: Sequence[int]) -> None:
        if what == FORK:
            self._fork(descriptors)
        elif what == TRY:
            self._workers.add(pid := self._spares.try_out(descriptors))
            self._control.sendall(ANSWER.pack(pid))
        elif what == IMPORT:
            self._import(self._names(number))
            self._control.sendall(ANSWER.pack(0))
        elif what == EXPECT:
            self._expected = self._names(number)
        elif what == DISMISS:
            if number in self._workers:
                self._workers.discard(number)
                if not self._spares.take_back(number):
                    os.kill(number, signal.SIGKILL)
                    self._dismissed.add(number)
        elif what == REAP:
            self._control.sendall(ANSWER.pack(_end(number) if number in self._workers else -signal.SIGKILL))
            self._workers.discard(number)
            self._spares.forget(number)

    def _names(self, size: int) -> list[str]:
        return self._control.recv(size, socket.MSG_WAITALL).decode().split(",")

    def _import(self, modules: Sequence[str]) -> None:
        if _import(modules):
            self._spares.end()  # they were forked without

    def _fork(self, descriptors: Sequence[int]) -> None:
        pid = self._spares.use(descriptors)
        if pid is None:
            pid = _fork(lambda: _work(*descriptors), [self._control])
        _close(descriptors)
        self._workers.add(pid)
        self._control.sendall(ANSWER.pack(pid))


class _Spares:
    """Workers that were forked ahead, and whose memory is at hand already."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._spares: list[tuple[int, socket.socket]] = []
        self._tried: dict[int, socket.socket] = {}
        """Those that work now and come back, by their process ids."""

    @property
    def are_enough(self) -> bool:
        return len(self._spares) >= most_spares()

    def add(self) -> None:
        ours, theirs = socket.socketpair()
        others = [*(socket for _, socket in self._spares), *self._tried.values()]
        with theirs:
            pid = _fork(lambda: _wait(theirs), [self._control, ours, *others])
        self._spares.insert(0, (pid, ours))  # those that were tried out are taken first

    def use(self, descriptors: Sequence[int]) -> int | None:
        """Give a spare its work and return its process id; None if there is none."""
        while self._spares:
            pid, ours = self._spares.pop()
            with ours, suppress(OSError):
                socket.send_fds(ours, [FORK], descriptors)
                return pid
            _end(pid)
        return None

    def try_out(self, descriptors: Sequence[int]) -> int:
        """Give a spare work of ours, after which it is a spare again; returns its process id."""
        if not self._spares:
            self.add()
        pid, ours = self._spares.pop()
        with suppress(OSError):  # if it has died, that is seen by who waits for it
            socket.send_fds(ours, [TRY], descriptors)
        _close(descriptors)
        self._tried[pid] = ours
        return pid

    def take_back(self, pid: int) -> bool:
        """Keep a worker that was tried out; tells whether it was one."""
        ours = self._tried.pop(pid, None)
        if ours is not None:
            self._spares.append((pid, ours))
        return ours is not None

    def forget(self, pid: int) -> None:
        """Note that a worker that was tried out has ended."""
        ours = self._tried.pop(pid, None)
        if ours is not None:
            ours.close()

    def end(self) -> None:
        for pid, ours in self._spares:
            ours.close()
            _end(pid)
        self._spares.clear()


def _fork(child: Callable[[], None], not_its_own: Iterable[socket.socket]) -> int:
    """Fork a process that does one thing and ends, whatever comes of it; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        for end in not_its_own:
            end.close()
        gc.enable()
        _ask_for_large_pages()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        child()
        code = 0
    except BaseException:  # noqa: BLE001 - it must not return into the loop of its parent
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _wait(theirs: socket.socket) -> None:
    """Wait, as a spare, for work."""
    import numpy as np

    from openhcs_jupyter.engine.tables import warm_up

    np.ones(_SPARE_BYTES, np.uint8)  # the allocator keeps it, and the first unit finds it there
    with suppress(Exception):  # a worker says what is amiss
        _warm_up()
    warm_up()
    message = TRY
    while message == TRY:
        message, descriptors, _, _ = socket.recv_fds(theirs, len(FORK), MOST_FILES)
        if message == FORK:
            theirs.close()
        if message:
            _work(*descriptors)
        if message == TRY:
            os.close(descriptors[1])  # the connection is closed by now


def _work(connection: int, status: int, *output: int) -> None:
    from openhcs_jupyter.engine.worker import work

    for place, descriptor in enumerate(output, 1):
        os.dup2(descriptor, place)
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # the process is ended without a word to it
    work(connection, status)


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _import(modules: Iterable[str]) -> bool:
    """Import those modules that are not there yet, and tell whether there were any."""
    new = [module for module in modules if module not in sys.modules]
    if not new:
        return False
    for module in new:
        with suppress(Exception):  # whoever needs it is told so where it does
            importlib.import_module(module)
    gc.freeze()
    return True


def _end(pid: int) -> int:
    """End a child, if it has not ended, and return how it did."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _warm_up() -> None:
    """Do what takes a worker some milliseconds the first time."""
    from openhcs_jupyter.config import load_settings
    from openhcs_jupyter.engine.worker import limit_threads

    limit_threads()
    load_settings()


def _ask_for_large_pages() -> None:
    """Have the heap of a worker grow by large pages: with small ones its first units take a tenth longer.

    NumPy asks for them where it allocates much; the allocator keeps what is given back, untouched as it is.
    """
    import numpy as np

    with suppress(MemoryError):  # where addresses are scarce
        np.empty(_LARGE_PAGES_BYTES, np.uint8)
