"""Serves kernels on a Unix socket: `openhcs-jupyter broker`."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
import struct
import sys
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Self

import msgspec

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero.address import Address
from openhcs_jupyter.repository.omero.broker import protocol
from openhcs_jupyter.repository.omero.broker.files import Folders, OutsideError
from openhcs_jupyter.repository.omero.broker.gate import Gate, RefusedError, Verdict
from openhcs_jupyter.repository.omero.broker.limits import Limits
from openhcs_jupyter.repository.omero.broker.protocol import MOST_BYTES, Check, Granted, Open, Policy, Refused, Verdicts

log = logging.getLogger("openhcs_jupyter.broker")
_IDLE_S = 600.0
_PAUSE_S = 0.1
_MOST_OF_ONE_USER = 128
_MOST_CONNECTIONS = 512
_GUESSES_PER_S = 0.2
_MOST_GUESSES = 50
"""Sessions that OMERO does not know, of one user of the machine."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the administrator says."""

    socket: Path
    server: Address
    repository: Path
    """OMERO's data directory."""
    folders: Sequence[Path] = ()
    """Others into which links of the repository may lead."""
    plates: bool = False
    """Images of plates are handed out though OMERO restricts their originals."""
    group: int | None = None
    """Of those who may connect; None lets all users of this machine, who need a session of OMERO anyway."""
    requests_per_s: float = 1000.0
    """Of one user of this machine."""


class Peer(msgspec.Struct, frozen=True):
    """Who asks, as the operating system says."""

    pid: int
    uid: int
    gid: int


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is written down of each request for a file; never a session's key."""

    outcome: str
    pid: int
    uid: int
    user: str = ""
    """In OMERO."""
    image: int = 0
    file: str = ""
    inode: str = ""
    bytes: int = 0
    why: str = ""


class Broker:
    """Listens until it is stopped; a context manager.

    Parameters
    ----------
    options
        What the administrator says.
    audit
        Gets a line of JSON for each grant and each refusal.

    Raises
    ------
    RepositoryError
        If the repository is not there, or another broker has the socket.
    """

    def __init__(self, options: Options, audit: Callable[[str], None] = log.info) -> None:
        if not os.access(options.repository / "Pixels", os.R_OK | os.X_OK):
            raise RepositoryError(
                f"{options.repository} is no data directory of OMERO that this account may read.",
                "Name the folder that holds Pixels/ and ManagedRepository/, and run as the account that owns it.",
            )
        self._options = options
        self._audit = audit
        self._policy = Policy(
            plates=options.plates, requests_per_s=options.requests_per_s, version=version("openhcs-jupyter")
        )
        self._gate = Gate(options.server, plates=options.plates)
        self._folders = Folders(options.repository, options.folders)
        self._requests = Limits(options.requests_per_s, 2 * options.requests_per_s)
        self._guesses = Limits(_GUESSES_PER_S, _MOST_GUESSES)
        self._lock = threading.Lock()
        self._connected: Counter[int] = Counter()
        self._listener = _listen(options.socket, options.group)

    def serve(self) -> None:
        """Answer until `stop` is called."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.EINTR):
                    log.warning("a kernel could not be let in: %s", error.strerror)
                    time.sleep(_PAUSE_S)  # until somebody has given something back
                    continue
                return  # stopped
            try:
                threading.Thread(target=self._attend, args=(connection,), daemon=True).start()
            except RuntimeError as error:  # too many of all
                connection.close()
                log.warning("a kernel could not be let in: %s", error)
                time.sleep(_PAUSE_S)  # until somebody has given something back

    def stop(self) -> None:
        """End `serve`."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with suppress(OSError):
            self._options.socket.unlink()
        self._gate.close()

    def _attend(self, connection: socket.socket) -> None:
        """Answer one kernel until it leaves."""
        with connection:
            connection.settimeout(_IDLE_S)
            peer = _peer(connection)
            if not self._let_in(peer.uid):
                self._write(AuditLine(outcome="refused", pid=peer.pid, uid=peer.uid, why="too many connections"))
                with suppress(OSError):
                    connection.send(protocol.encode(Refused(code="slow", why="Too many connections.", retry_after_s=1)))
                return
            try:
                while data := _received(connection):
                    if _is_unread(connection):
                        why = "asks on without reading its answers"
                        self._write(AuditLine(outcome="refused", pid=peer.pid, uid=peer.uid, why=why))
                        break
                    self._answer(connection, peer, data)
            except OSError:
                pass  # it left, or said nothing for long
            finally:
                with self._lock:
                    self._connected[peer.uid] -= 1

    def _let_in(self, uid: int) -> bool:
        with self._lock:
            if self._connected[uid] >= _MOST_OF_ONE_USER or self._connected.total() >= _MOST_CONNECTIONS:
                return False
            self._connected[uid] += 1
            return True

    def _answer(self, connection: socket.socket, peer: Peer, data: bytes) -> None:
        request: protocol.Request | None = None
        try:
            if wait := self._requests.wait_s(peer.uid):
                raise RefusedError("slow", "Too many requests.", wait)
            request = _request(data)
            if isinstance(request, Open):
                self._open(connection, peer, request)
            elif isinstance(request, Check):
                verdicts = self._checked(peer, request.session, request.images)
                refused = {image: verdict.why for image, verdict in verdicts.items() if verdict.code}
                connection.send(protocol.encode(Verdicts(refused=refused)))
            else:
                connection.send(protocol.encode(self._policy))
        except RefusedError as refusal:
            answer = Refused(code=refusal.code, why=refusal.why, retry_after_s=refusal.retry_after_s)
            connection.send(protocol.encode(answer))
            if refusal.code == "slow":
                return  # it comes again
            image, file = (request.image, _some(request.files)) if isinstance(request, Open) else (0, "")
            user = self._gate.user(request.session) if isinstance(request, Open | Check) else ""
            why = f"{refusal.code}: {refusal.why}"
            self._write(
                AuditLine(outcome="refused", pid=peer.pid, uid=peer.uid, user=user, image=image, file=file, why=why)
            )
        except OSError:
            raise
        except Exception:
            # One kernel's request must not end the broker; what is wrong with it stands in the log.
            log.exception("a request of uid %d failed", peer.uid)
            connection.send(protocol.encode(Refused(code="server", why="The broker failed; its log says more.")))

    def _checked(self, peer: Peer, session: str, images: Sequence[int]) -> dict[int, Verdict]:
        if self._gate.user(session):
            return self._gate.check(session, images)
        if wait := self._guesses.wait_s(peer.uid):
            raise RefusedError("slow", "Too many sessions that OMERO does not know.", wait)
        verdicts = self._gate.check(session, images)
        self._guesses.wait_s(peer.uid, -1.0)  # it was no guess
        return verdicts

    def _open(self, connection: socket.socket, peer: Peer, request: Open) -> None:
        verdict = self._checked(peer, request.session, (request.image, *request.ahead))[request.image]
        if verdict.code is not None:
            raise RefusedError(verdict.code, f"Image {request.image}: {verdict.why}.")
        paths = self._gate.paths(request.session, request.image, verdict, request.files)
        user = self._gate.user(request.session)
        with ExitStack() as opened:
            descriptors = []
            for path in paths:
                descriptors.append(self._opened(request.image, path))
                opened.callback(os.close, descriptors[-1])
            for path, descriptor in zip(paths, descriptors, strict=True):
                status = os.fstat(descriptor)
                self._write(
                    AuditLine(
                        outcome="granted",
                        pid=peer.pid,
                        uid=peer.uid,
                        user=user,
                        image=request.image,
                        file=path,
                        inode=f"{status.st_dev:x}:{status.st_ino}",
                        bytes=status.st_size,
                    )
                )
            socket.send_fds(connection, [protocol.encode(Granted())], descriptors)

    def _opened(self, image: int, path: str) -> int:
        try:
            return self._folders.open(path)
        except OutsideError as error:
            raise RefusedError("outside", f"{path} of image {image} is not handed out: {error}.") from error
        except OSError as error:
            raise RefusedError("missing", f"{path} of image {image} cannot be opened: {error.strerror}.") from error

    def _write(self, line: AuditLine) -> None:
        self._audit(msgspec.json.encode(line).decode())


def _some(files: Sequence[str]) -> str:
    return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "") if files else ""


def _request(data: bytes) -> protocol.Request:
    try:
        return protocol.read_request(data)
    except RepositoryError as error:
        raise RefusedError("request", error.message) from None


def _received(connection: socket.socket) -> bytes:
    data, _, flags, _ = connection.recvmsg(MOST_BYTES)  # descriptors that a kernel sends are dropped
    return b"too long" if flags & socket.MSG_TRUNC else data


def _is_unread(connection: socket.socket) -> bool:
    """Tell whether the last answer waits still: descriptors in answers that wait count against all of the broker's."""
    waiting = fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4))
    return int.from_bytes(waiting, sys.byteorder) > 0


def _peer(connection: socket.socket) -> Peer:
    size = struct.calcsize("3i")
    return Peer(*struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))


def _listen(path: Path, group: int | None) -> socket.socket:
    """Bind the socket; one that a broker left which was killed is replaced."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise RepositoryError(f"{path} is there and is no socket.", "Name another path with --socket.")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            try:
                other.connect(os.fspath(path))
            except OSError:
                path.unlink()
            else:
                raise RepositoryError(f"Another broker listens at {path}.", "Stop it first.")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
        if group is not None:
            os.chown(path, -1, group)
        path.chmod(0o666 if group is None else 0o660)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise RepositoryError(f"The broker cannot listen at {path}: {error.strerror or error}.") from error
    finally:
        os.umask(before)
    return listener
