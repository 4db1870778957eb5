"""The catalogue of an embedded repository: one SQLite file with OMERO's words and ids.

A plate has channels and wells, a well has wellsamples (fields), a wellsample has images. Images of equal shape share a
row of `layout`. Where an image's planes lie is packed into one value in `planes`, which only reading pixels touches. No
id is used twice. Every change is one transaction; a process that dies leaves the state before it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from weakref import WeakSet

from openhcs_jupyter.errors import RepositoryError

FILE_NAME = "catalogue.sqlite"
SCHEMA_VERSION = 2
_BUSY_S = 60.0
_PARTIAL = f".{FILE_NAME}-"
_NETWORK_TYPES = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p", "afs")

_SCHEMA = """
CREATE TABLE plate (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    source TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL,
    imported TEXT NOT NULL,
    version TEXT NOT NULL,
    rows INTEGER NOT NULL,
    columns INTEGER NOT NULL,
    wells INTEGER NOT NULL,
    fields INTEGER NOT NULL,
    planes INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    problems TEXT NOT NULL
);
CREATE TABLE channel (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plate INTEGER NOT NULL REFERENCES plate,
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    emission_nm REAL,
    excitation_nm REAL,
    color TEXT,
    UNIQUE (plate, position)
);
CREATE TABLE layout (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plate INTEGER NOT NULL REFERENCES plate,
    layout BLOB NOT NULL
);
CREATE INDEX layout_plate ON layout (plate);
CREATE TABLE well (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plate INTEGER NOT NULL REFERENCES plate,
    "row" INTEGER NOT NULL,
    "column" INTEGER NOT NULL,
    UNIQUE (plate, "row", "column")
);
CREATE TABLE wellsample (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plate INTEGER NOT NULL REFERENCES plate,
    well INTEGER NOT NULL REFERENCES well,
    number INTEGER NOT NULL,
    position_y REAL,
    position_x REAL,
    acquired TEXT,
    UNIQUE (plate, well, number)
);
CREATE TABLE image (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    plate INTEGER NOT NULL REFERENCES plate,
    wellsample INTEGER NOT NULL REFERENCES wellsample,
    kind TEXT NOT NULL,
    layout INTEGER NOT NULL REFERENCES layout,
    version TEXT NOT NULL,
    UNIQUE (plate, wellsample, kind)
);
CREATE TABLE planes (
    image INTEGER PRIMARY KEY REFERENCES image,
    packed BLOB NOT NULL
);
"""


_FROM_1 = ("ALTER TABLE channel ADD COLUMN excitation_nm REAL", "ALTER TABLE wellsample ADD COLUMN acquired TEXT")
"""What brings a catalogue of version 1 up to version 2."""


class Catalogue:
    """Connections to one catalogue, one a thread; made anew after a fork.

    Parameters
    ----------
    folder
        Of the repository; must hold a catalogue, see `create`.

    Raises
    ------
    RepositoryError
        If the file is no catalogue, or one that a later version made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        self._local = threading.local()
        self._lock = threading.Lock()
        self._opened: WeakSet[_Own] = WeakSet()
        self._closed = False
        try:
            ((version,),) = self.fetch("PRAGMA user_version")
        except RepositoryError:
            self.close()
            raise
        if version == 1:
            version = self._update()
        if version != SCHEMA_VERSION:
            self.close()
            raise RepositoryError(
                f"{self._path} has version {version}; this program knows version {SCHEMA_VERSION}.",
                "Update openhcs-jupyter, or use another folder.",
            )

    def _update(self) -> int:
        """Bring a catalogue of version 1 up to date, unless another process just did; returns its version."""
        with self.transaction() as connection:
            if connection.execute("PRAGMA user_version").fetchone() == (1,):
                for statement in (*_FROM_1, f"PRAGMA user_version={SCHEMA_VERSION}"):
                    connection.execute(statement)
        return SCHEMA_VERSION

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection."""
        own: _Own | None = getattr(self._local, "own", None)
        if own is not None and own.pid == os.getpid():
            return own.connection
        if own is not None:
            # SQLite must not close in a child what the parent opened.
            _INHERITED.append(own)
        if self._closed:
            raise RepositoryError(f"The repository at {self._path.parent} was closed.", "Connect to it again.")
        self._local.own = own = _Own(self._path)
        with self._lock:
            self._opened.add(own)
        return own.connection

    def fetch(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """Run one query and return its rows."""
        try:
            return self.connection().execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise RepositoryError(
                f"{self._path} cannot be read: {error}.",
                "Its folder must be writable and its disk must have space. "
                "A damaged file can be removed and the plates imported again.",
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Change the catalogue: all of it or nothing; other writers wait."""
        connection = self.connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            raise RepositoryError(
                f"{self._path} cannot be written: {error}.",
                "Its folder must be writable, its disk must have space, and no other process may hold it for a minute.",
            ) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let this thread's queries see one state, whatever others write meanwhile."""
        connection = self.connection()
        connection.execute("BEGIN")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the connections of all threads."""
        self._closed = True
        with self._lock:
            opened = list(self._opened)
            self._opened.clear()
        for own in opened:
            own.close()
        self._local = threading.local()


class _Own:
    """A thread's connection, closed when the thread ends: the connection itself lives in a reference cycle."""

    _process_id = staticmethod(os.getpid)
    """Of its own: when the interpreter ends, the names of the module may be gone before this is."""

    def __init__(self, path: Path) -> None:
        self.pid = os.getpid()
        self.connection = _connect(path)

    def close(self) -> None:
        if self.pid == self._process_id():
            self.connection.close()

    __del__ = close


_INHERITED: list[_Own] = []


def exists(folder: Path) -> bool:
    """Tell whether `folder` holds a catalogue."""
    return (folder / FILE_NAME).is_file()


def is_empty(folder: Path) -> bool:
    """Tell whether nothing but catalogues in the making lies in `folder`."""
    return all(entry.name.startswith(_PARTIAL) for entry in folder.iterdir())


def create(folder: Path) -> None:
    """Make the catalogue of `folder`, whole or not at all; one that is there, or that another process makes, stays."""
    partial = folder / f"{_PARTIAL}{os.getpid()}-{threading.get_ident()}"
    partial.unlink(missing_ok=True)
    connection = _connect(partial)
    try:
        # Write-ahead logs need memory that all processes share, so they fail where several machines use one folder.
        connection.execute(f"PRAGMA journal_mode={'DELETE' if _on_network(folder) else 'WAL'}")
        connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    finally:
        connection.close()
    with suppress(FileExistsError):
        os.link(partial, folder / FILE_NAME)
    partial.unlink()


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)


def _on_network(folder: Path) -> bool:
    """Tell whether `folder` lies on another machine's disk, as far as Linux says."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return False
    lines = [line.split() for line in mounts.read_text().splitlines()]
    here = [(len(words[1]), words[2]) for words in lines if folder.resolve().is_relative_to(words[1])]
    return bool(here) and max(here)[1].startswith(_NETWORK_TYPES)
