"""Passes a remote kernel's output on to Jupyter's clients here, each message once and in order, also after cuts."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import zmq

from openhcs_jupyter.kernel.passing import Passer
from openhcs_jupyter.kernel.record import signature

_REMEMBERED = 20_000
_TICK_MS = 200
_PATIENCE_S = 5.0


class Relay(Passer):
    """Stands between the clients' output sockets and the kernel's.

    Parameters
    ----------
    address
        Where clients connect, ``tcp://HOST:PORT``.
    kernel
        The forwarded socket of the kernel's output.
    """

    def __init__(self, address: str, kernel: str) -> None:
        options = {zmq.XPUB_VERBOSE: 1, zmq.SNDHWM: 0, zmq.LINGER: 1000}
        super().__init__("openhcs-relay", address, zmq.XPUB, options)
        self._kernel = self._context.socket(zmq.XSUB)
        self._kernel.setsockopt(zmq.RCVHWM, 0)
        self._kernel.linger = 0
        self._kernel.connect(f"ipc://{kernel}")
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._last = ""
        self._held: list[list[zmq.Frame]] | None = None
        """Messages that came after a cut; it is not known yet what came before them."""
        self._first: str | None = None
        self._until = 0.0

    @property
    def is_holding(self) -> bool:
        """Whether the kernel is to say something again."""
        return self._held is not None

    @property
    def last(self) -> str:
        """The signature of the last message that was passed on."""
        return self._last

    def hold(self) -> None:
        """Hold messages back after a cut, until it is known which were lost."""
        with self._lock:
            if self._held is None:
                self._held, self._first = [], None
            self._until = time.monotonic() + _PATIENCE_S

    def wait_on(self) -> None:
        """Be patient for longer: the kernel is being asked."""
        with self._lock:
            self._until = time.monotonic() + _PATIENCE_S

    def resume_from(self, first: str) -> None:
        """Go on from the message of this signature: the kernel has sent again what followed it."""
        with self._lock:
            self._first = first
        self._waker.wake()

    def _pass(self) -> None:
        poller = zmq.Poller()
        for socket in (self._clients, self._kernel, self._waker):
            poller.register(socket, zmq.POLLIN)
        while not self._end.is_set():
            ready = dict(poller.poll(_TICK_MS if self.is_holding else None))
            if self._waker.fileno() in ready:
                self._waker.clear()
            if self._clients in ready:
                self._kernel.send(self._clients.recv())
            with self._lock:
                if self._kernel in ready:
                    self._take(self._kernel.recv_multipart(copy=False))
                self._let_go()

    def _take(self, frames: list[zmq.Frame]) -> None:
        if self._held is not None:
            self._held.append(frames)
        else:
            self._hand_on(frames)

    def _let_go(self) -> None:
        """Pass on what was held back, once it follows what was passed on before."""
        if self._held is None:
            return
        if self._first:
            marks = [_mark(frames) for frames in self._held]
            if self._first in marks:
                # The last time: it may have been asked for more than once.
                self._held = self._held[len(marks) - 1 - marks[::-1].index(self._first) :]
            elif time.monotonic() < self._until:
                return
        elif self._first is None and time.monotonic() < self._until:
            return
        held, self._held = self._held, None
        for frames in held:
            self._hand_on(frames)

    def _hand_on(self, frames: list[zmq.Frame]) -> None:
        mark = _mark(frames)
        if mark and mark in self._seen:
            return
        self._seen[mark] = None
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        self._last = mark or self._last
        self._clients.send_multipart(frames, copy=False)


def _mark(frames: Sequence[Any]) -> str:
    return signature([frame.bytes for frame in frames[:4]])
