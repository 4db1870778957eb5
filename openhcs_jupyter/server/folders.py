"""The server's folder: who it is, its keys, the locks of jobs, and the jobs' own folders."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.files import check_parents
from openhcs_jupyter.server.accounts import Account, acting_as, make_folder
from openhcs_jupyter.streaming.keys import KeyPair, new_keys, read_private, write_private

_PART = 1 << 20


class Folders:
    """Everything that lies below one server's folder.

    ``queue.db``, ``keys.json``, ``token`` and ``locks/`` are the server's; ``sessions/SEAT`` and ``jobs/ID/`` belong to
    the account of the job's owner, who alone can enter or read them.

    Raises
    ------
    UsageError
        If another server uses the folder, or everybody can put another one in its place.
    """

    def __init__(self, path: Path, *, several: bool) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Owners pass through to their own jobs, and see no names on the way.
        path.chmod(0o711 if several else 0o700)
        check_parents(path, UsageError)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise UsageError(f"Another server uses {path}.", "Stop it, or choose another folder: --state.") from None
        self._locks = path / "locks"
        self._locks.mkdir(mode=0o700, exist_ok=True)
        self._sessions = path / "sessions"
        self._sessions.mkdir(mode=0o700, exist_ok=True)
        # Each owner may put a file there and nobody may look what else there is.
        self._sessions.chmod(0o1733 if several else 0o700)
        self._jobs = path / "jobs"
        self._jobs.mkdir(mode=0o711, exist_ok=True)
        self._jobs.chmod(0o711 if several else 0o700)

    def close(self) -> None:
        """Let another server use the folder."""
        os.close(self._lock)

    @property
    def queue(self) -> Path:
        """The queue's file."""
        return self.path / "queue.db"

    @property
    def address(self) -> Path:
        """Where the server can be reached; for everybody who may enter the folder."""
        return self.path / "server.json"

    @property
    def token(self) -> Path:
        """The token of the server's own account."""
        return self.path / "token"

    def keys(self) -> KeyPair:
        """Return the server's keys; makes them the first time."""
        path = self.path / "keys.json"
        if not path.exists():
            write_private(path, new_keys())
        return read_private(path, KeyPair)

    def mark(self) -> str:
        """Return what marks this server's processes; the same for good."""
        path = self.path / "mark"
        if not path.exists():
            path.write_text(secrets.token_hex(8))
        return path.read_text()

    def new_mark(self) -> str:
        """Return a mark for one of its processes."""
        return f"{self.mark()}.{secrets.token_hex(8)}"

    def session(self, seat: str) -> Path:
        """Return where a process keeps the key of its session with OMERO."""
        return self._sessions / seat

    def job(self, job: str) -> Path:
        """Return a job's folder."""
        return self._jobs / job

    def make_job(self, job: str, owner: Account) -> Path:
        """Make a job's folder, if it is not there, and return it."""
        path = self.job(job)
        if not path.exists():
            partial = self._jobs / f".{job}"
            if partial.exists():
                partial.rmdir()
            make_folder(partial, owner)
            partial.rename(path)
        return path

    def remove_job(self, job: str, owner: Account) -> None:
        """Remove a job's folder, with its owner's rights; takes as long as its owner has filled it.

        Raises
        ------
        OSError
            If its owner may not remove all of it.
        """
        path = self.job(job)
        with acting_as(owner):
            for one in list(path.iterdir()):
                if one.is_dir() and not one.is_symlink():
                    shutil.rmtree(one)
                else:
                    one.unlink()
        path.rmdir()

    @contextmanager
    def lock(self, job: str) -> Iterator[int | None]:
        """Lock a job and give the file that holds the lock; None where a process has it."""
        file = os.open(self._locks / job, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield None
                return
            yield file
        finally:
            os.close(file)

    def is_held(self, job: str) -> bool:
        """Tell whether a process holds a job's lock."""
        with self.lock(job) as file:
            return file is None

    def forget_lock(self, job: str) -> None:
        """Remove the lock of a job that has ended."""
        (self._locks / job).unlink(missing_ok=True)


def read_part(path: Path, offset: int, most: int, owner: Account) -> tuple[bytes, int]:
    """Read a part of a file with its owner's rights, and no others; returns it and the file's size.

    Raises
    ------
    OSError
        If there is no such file, or the owner may not read it.
    """
    with acting_as(owner):
        # Not held up by a pipe that somebody has put there.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(2, "no plain file", str(path))
        # No more than it says that it holds: what /proc makes up when it is read would tell of the server itself.
        return os.pread(file, max(0, min(most, _PART, found.st_size - offset)), offset), found.st_size
    finally:
        os.close(file)
