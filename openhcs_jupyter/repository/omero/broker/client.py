"""The kernel's side of the broker: asks for descriptors, and finds a broker that was started again."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from openhcs_jupyter.closing import Closing
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero.broker import protocol
from openhcs_jupyter.repository.omero.broker.protocol import (
    MOST_BYTES,
    MOST_FILES,
    MOST_IMAGES,
    Check,
    Granted,
    Hello,
    Open,
    Policy,
    Refused,
    Reply,
    Request,
    Verdicts,
)

_PATIENCE_S = 10.0
"""A broker that is started again is waited for so long."""
_ANSWER_S = 60.0
_MOST_WAIT_S = 60.0
_NAMES_BYTES = MOST_BYTES - 8192
_TOLD_S = 30.0
"""How long the broker surely knows what it was told of."""


class BrokerError(RepositoryError):
    """The broker is gone, or does not hand something out."""


class BrokerClient(Closing):
    """A connection with the broker; safe to use from several threads; a context manager.

    Parameters
    ----------
    path
        Of the broker's socket.
    session
        Returns the session's key, as it is now.
    patience_s
        A broker that is started again is waited for so long.
    """

    def __init__(self, path: str | Path, session: Callable[[], str], patience_s: float = _PATIENCE_S) -> None:
        self._path = Path(path).expanduser()
        self._session = session
        self._patience_s = patience_s
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._begun: tuple[int, tuple[str, ...]] | None = None
        """The image and files that were asked for ahead, and are answered next."""
        self._told: frozenset[int] = frozenset()
        self._told_until = 0.0

    def open(
        self,
        image: int,
        files: Sequence[str] = (),
        ahead: Callable[[], Sequence[int]] = tuple,
        then: tuple[int, Sequence[str]] | None = None,
    ) -> list[int]:
        """Open files of an image for reading.

        Parameters
        ----------
        image
            Its id.
        files
            Some of those that it was imported from, as OMERO names them: path and name below its managed repository;
            none is the file in OMERO's own layout.
        ahead
            Names images that will be opened soon, so that the broker asks OMERO for all of them at once; called where
            the broker was not told of `image`.
        then
            The image that is likely opened next, and its files: they are asked for while these are read.

        Returns
        -------
        list of int
            Descriptors that can only be read, in the order of the files; the caller closes them.

        Raises
        ------
        BrokerError
            If one of them is refused, or the broker is gone.
        """
        soon: tuple[int, ...] = ()
        if image not in self._told or time.monotonic() > self._told_until:
            soon = tuple(ahead()[:MOST_IMAGES])
            self._told, self._told_until = frozenset((image, *soon)), time.monotonic() + _TOLD_S
        descriptors: list[int] = []
        with self._lock:
            try:
                for some in _messages(files):
                    descriptors += self._answered((image, some)) or self._opened(
                        Open(session=self._session(), image=image, files=some, ahead=soon)
                    )
            except BaseException:
                _close(descriptors)
                raise
            if then is not None and then[0] in self._told and not soon:
                self._begin(then[0], next(_messages(then[1])))
        return descriptors

    def check(self, images: Iterable[int], patience_s: float | None = None) -> dict[int, str]:
        """Say which images would be refused, and why.

        Parameters
        ----------
        images
            Their ids.
        patience_s
            A broker that does not answer is waited for so long.

        Raises
        ------
        BrokerError
            If the session has ended, or the broker is gone.
        """
        wanted = list(images)
        refused: dict[int, str] = {}
        for start in range(0, len(wanted), MOST_IMAGES):
            some = tuple(wanted[start : start + MOST_IMAGES])
            reply, _ = self._ask(Check(session=self._session(), images=some), patience_s)
            if not isinstance(reply, Verdicts):
                raise self._unexpected(reply)
            refused |= reply.refused
        return refused

    def policy(self) -> Policy:
        """Say what the administrator allows."""
        reply, _ = self._ask(Hello())
        if not isinstance(reply, Policy):
            raise self._unexpected(reply)
        return reply

    def close(self) -> None:
        """Leave the broker; descriptors stay valid."""
        with self._lock:
            self._leave()

    def _opened(self, request: Open) -> list[int]:
        reply, descriptors = self._ask(request)
        if not isinstance(reply, Granted):
            raise self._unexpected(reply)
        if len(descriptors) != max(1, len(request.files)):
            _close(descriptors)
            raise BrokerError(
                f"This process cannot hold {len(request.files)} more open files.", "Raise its limit: ulimit -n 4096"
            )
        return descriptors

    def _ask(self, request: Request, patience_s: float | None = None) -> tuple[Reply, list[int]]:
        """Ask, and wait where the broker says so."""
        until = time.monotonic() + _MOST_WAIT_S
        while True:
            patience = self._patience_s if patience_s is None else patience_s
            reply, descriptors = self._exchange(protocol.encode(request), patience)
            if not isinstance(reply, Refused):
                return reply, descriptors
            if reply.code != "slow" or time.monotonic() + reply.retry_after_s > until:
                raise BrokerError(f"The broker at {self._path} refuses: {reply.why}", _HINTS.get(reply.code))
            time.sleep(reply.retry_after_s)

    def _begin(self, image: int, files: tuple[str, ...]) -> None:
        """Ask for an image's files; the answer is read later."""
        if self._socket is not None and self._begun is None:
            with suppress(OSError):
                self._socket.send(protocol.encode(Open(session=self._session(), image=image, files=files)))
                self._begun = (image, files)

    def _answered(self, asked: tuple[int, tuple[str, ...]] | None = None) -> list[int]:
        """Read the answer to what was asked ahead; nothing if it was something else, or was refused."""
        begun, self._begun = self._begun, None
        if begun is None or self._socket is None:
            return []
        try:
            answer, descriptors, _, _ = socket.recv_fds(self._socket, MOST_BYTES, MOST_FILES)
        except OSError:
            answer, descriptors = b"", []
        if not answer:
            self._leave()  # it has ended: whoever asks next joins it again
            return []
        reply = self._read(answer, descriptors)
        if begun == asked and isinstance(reply, Granted) and len(descriptors) == max(1, len(begun[1])):
            return list(descriptors)
        _close(descriptors)
        return []

    def _exchange(self, data: bytes, patience_s: float) -> tuple[Reply, list[int]]:
        """Send a message and receive its answer; once more where the broker was started again meanwhile."""
        until = time.monotonic() + patience_s
        with self._lock:
            self._answered()
            while True:
                try:
                    if self._socket is None:
                        self._socket = self._joined()
                    self._socket.send(data)
                    answer, descriptors, _, _ = socket.recv_fds(self._socket, MOST_BYTES, MOST_FILES)
                    if not answer:
                        raise ConnectionResetError("it has ended")
                except OSError as error:
                    self._leave()
                    if time.monotonic() > until or isinstance(error, TimeoutError | PermissionError):
                        said = error.strerror or str(error) or type(error).__name__
                        raise BrokerError(
                            f"The broker at {self._path} does not answer: {said}.",
                            "Ask your administrator (systemctl status openhcs-broker), or read through the server: "
                            "%openhcs config omero_broker ''",
                        ) from error
                    time.sleep(min(0.1, patience_s / 10))
                    continue
                return self._read(answer, descriptors), descriptors

    @staticmethod
    def _read(answer: bytes, descriptors: Sequence[int]) -> Reply:
        try:
            return protocol.read_reply(answer)
        except RepositoryError:
            _close(descriptors)
            raise

    def _joined(self) -> socket.socket:
        """Connect, to the owner of the socket only: a session's key is about to be told."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(_ANSWER_S)
            connection.connect(os.fspath(self._path))
            size = struct.calcsize("3i")
            _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
            folder = self._path.parent.stat()
            if folder.st_mode & 0o002 or folder.st_uid not in (0, uid):
                raise PermissionError(0, f"others than the broker may write its folder, {self._path.parent}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _leave(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket, self._begun = None, None

    def _unexpected(self, reply: Reply) -> BrokerError:
        return BrokerError(f"The broker at {self._path} answers with {type(reply).__name__}.", "Is it of this version?")


def _messages(files: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Divide names so that those of a message fit into it; there is one message at least."""
    some: list[str] = []
    size = 0
    for file in files:
        length = len(msgspec.json.encode(file)) + 1
        if some and (len(some) == MOST_FILES or size + length > _NAMES_BYTES):
            yield tuple(some)
            some, size = [], 0
        some.append(file)
        size += length
    if some or not files:
        yield tuple(some)


def _close(descriptors: Iterable[int]) -> None:
    for one in descriptors:
        os.close(one)


_HINTS = {
    "session": "Connect again: %openhcs connect omero://...",
    "restricted": "Your administrator decides what the broker hands out.",
    "server": "Try again later.",
    "missing": "Ask your OMERO administrator whether the file is where OMERO says.",
    "outside": "Ask your OMERO administrator: the broker hands out files of OMERO's own folders only.",
}
