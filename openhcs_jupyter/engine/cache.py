"""Finds what earlier runs have made, by fingerprint, and keeps the store of runs within its limit.

Results stay in the folders of the runs that made them; the cache is an index of them. A run that takes a result links
its files, so that each run's folder is whole by itself and can be removed without harm to another. Beside results there
are waypoints: what stands between a unit's steps.

What is removed first is what is worth least by GreedyDual-Size: each entry is worth the seconds it costs per byte, plus
what the entry that was removed last was worth at the time it was made or used, so that what is not used grows old.
(P. Cao and S. Irani, Cost-aware WWW proxy caching algorithms, USENIX Symposium on Internet Technologies and Systems,
1997.) Waypoints go before results. The results that the latest run of a name shows for its plate are never removed.
"""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from openhcs_jupyter.config import load_settings
from openhcs_jupyter.engine.filesystem import is_local
from openhcs_jupyter.engine.listing import runs_that_stay
from openhcs_jupyter.engine.program import Outcome
from openhcs_jupyter.engine.store import RunFolder, link, stored_files
from openhcs_jupyter.engine.waypoints import KeptWaypoints
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import StoredFile

Kind = Literal["result", "waypoint"]
T = TypeVar("T")

_VERSION = 2
_SCHEMA = """
create table if not exists entry (
    id text primary key, kind text not null, bytes integer not null, seconds real not null, worth real not null
) without rowid;
create table if not exists place (path text primary key, id text not null) without rowid;
create index if not exists place_of on place (id);
create table if not exists way (address text primary key, id text not null) without rowid;
create index if not exists way_of on way (id);
create table if not exists age (worth real not null);
drop table if exists result;
"""
_AT_A_TIME = 500
_FLUSH_S = 1.0
_TRIES = 4
_SPARE_SHARE, _SPARE_BYTES = 0.05, 10e9
"""Of a disk: waypoints leave this share of it free, or these bytes if they are less, where no setting says else."""


class IndexRemovedError(RunError):
    """The index was removed while it was used; it is made anew when it is used again."""


class Found(NamedTuple):
    """A result that an earlier run made."""

    place: Path
    bytes: int


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the store of runs."""

    folder: str
    results: int
    """Units' results, each counted once however many runs have it."""
    result_bytes: int
    waypoints: int
    waypoint_bytes: int
    limit_bytes: int
    free_bytes: int
    """Of the disk."""
    spare_bytes: int
    """Of these, what waypoints leave free."""
    runs: int
    """Runs of which something is there."""


class _New(NamedTuple):
    """What is to be written to the index."""

    id: str
    kind: Kind
    path: str
    bytes: int
    seconds: float
    addresses: tuple[str, ...] = ()


class ResultCache:
    """The index of a run store. Used by one thread; several processes may share the store.

    On a file system of this machine all processes share one index. On any other each machine has its own, as SQLite
    cannot be relied on there; the results themselves are shared safely, for they appear by being renamed.

    Parameters
    ----------
    runs
        Folder of the run store.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._new: list[_New] = []
        self._used: set[str] = set()
        self._flushed = time.monotonic()
        self._own = 0
        """Bytes of waypoints that were written through this object."""
        self._room = 0.0
        """Bytes of waypoints that may still be written."""

    @property
    def has_room(self) -> bool:
        """Whether waypoints may be written; known after the first `flush`."""
        return self._room > 0

    def find(self, fingerprints: Iterable[str]) -> dict[str, Found]:
        """Return the results that are there, by fingerprint.

        Raises
        ------
        RunError
            If the index cannot be read.
        """
        query = "select p.id, p.path, e.bytes from place p join entry e using (id) where p.id in ({}) order by p.path"
        rows = self._select(query, fingerprints)
        return {fingerprint: Found(self._runs / path, size) for fingerprint, path, size in rows}

    def find_waypoints(self, addresses: Iterable[str]) -> dict[str, Path]:
        """Return the folders of the waypoints that are there, by address.

        Raises
        ------
        RunError
            If the index cannot be read.
        """
        query = "select w.address, p.path from way w join place p using (id) where w.address in ({})"
        return {address: self._runs / path for address, path in self._select(query, addresses)}

    def take(self, found: Found, folder: RunFolder, key: str) -> tuple[StoredFile, ...] | None:
        """Link a result into another run's folder; None if its files are gone or damaged."""
        partial = folder.units / f".{key}.{os.getpid()}"
        try:
            files = stored_files(found.place)
            if sum(file.size for file in files) != found.bytes or found.place.name[-16:] != key[-16:]:
                return None
            partial.mkdir()
            for file in files:
                link(found.place / file.name, partial / file.name)
            partial.rename(folder.units / key)
        except FileNotFoundError:
            shutil.rmtree(partial, ignore_errors=True)
            return None
        return files

    def add(self, fingerprint: str, folder: RunFolder, key: str, outcome: Outcome) -> None:
        """Note a result; it is written to the index with others, about every second."""
        size = sum(file.size for file in outcome.files)
        seconds = outcome.read_s + outcome.compute_s
        self._note(_New(fingerprint, "result", f"{folder.run_id}/{folder.units.name}/{key}", size, seconds))

    def add_waypoints(self, addresses: Sequence[str], folder: RunFolder, key: str, kept: KeptWaypoints) -> None:
        """Note the waypoints of a unit."""
        path = f"{folder.run_id}/{folder.waypoints.name}/{key}"
        self._own += kept.bytes
        self._room -= kept.bytes
        self._note(_New(path, "waypoint", path, kept.bytes, kept.seconds, tuple(addresses)))

    def used(self, place: Path) -> None:
        """Note that a unit goes on from the waypoints in a folder."""
        self._used.add(place.relative_to(self._runs).as_posix())

    def flush(self) -> None:
        """Write what was noted, and remove what is too much.

        Whoever is killed before loses no result: other runs do not find it, that is all.

        Raises
        ------
        RunError
            If the index cannot be written.
        """
        _again_if_removed(self._write_out)
        self._flushed = time.monotonic()

    def _write_out(self) -> None:
        with self._open() as index:
            with _transaction(index):
                (age,) = index.execute("select coalesce(max(worth), 0) from age").fetchone()
                for new in self._new:
                    _write(index, new, age)
                worth = "update entry set worth = ? + seconds / max(bytes, 1) where id = ?"
                index.executemany(worth, [(age, one) for one in self._used])
            self._new.clear()
            self._used.clear()
            self._trim(index)

    def usage(self) -> Usage:
        """Tell what is there."""
        with self._open() as index:
            self._forget_what_is_gone(index)
            counts = dict.fromkeys(("result", "waypoint"), (0, 0))
            for kind, count, size in index.execute("select kind, count(*), sum(bytes) from entry group by kind"):
                counts[kind] = (count, size)
            runs = len(_runs_in(index))
        total = counts["result"][1] + counts["waypoint"][1]
        return Usage(
            folder=str(self._runs),
            results=counts["result"][0],
            result_bytes=counts["result"][1],
            waypoints=counts["waypoint"][0],
            waypoint_bytes=counts["waypoint"][1],
            limit_bytes=self._limit(total),
            free_bytes=self._free(),
            spare_bytes=self._spare(),
            runs=runs,
        )

    def clear(self, *, results: bool) -> int:
        """Remove all waypoints, and return how many bytes they had.

        Parameters
        ----------
        results
            Remove also the results of all runs but those that must stay: see `runs_that_stay`.
        """
        removed = 0
        with self._open() as index:
            self._forget_what_is_gone(index)
            for kind in ("waypoint", "result") if results else ("waypoint",):
                removed += self._remove_least(index, kind, None)
        # What a killed run left without noting it.
        for place in self._runs.glob("*/waypoints/[!.]*"):
            _remove(place)
        return removed

    def _note(self, new: _New) -> None:
        self._new.append(new)
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def _select(self, query: str, wanted: Iterable[str]) -> list[tuple[Any, ...]]:
        keys = list(wanted)
        return _again_if_removed(lambda: self._read(query, keys)) if keys else []

    def _read(self, query: str, keys: list[str]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        with self._open() as index:
            for start in range(0, len(keys), _AT_A_TIME):
                part = keys[start : start + _AT_A_TIME]
                rows += index.execute(query.format(",".join("?" * len(part))), part)
        return rows

    def _trim(self, index: sqlite3.Connection) -> None:
        """Remove what is worth least until the rest is within the limit, and reckon what room is left."""
        sizes = dict(index.execute("select kind, sum(bytes) from entry group by kind"))
        total = sum(sizes.values())
        limit = self._limit(total)
        if total > limit:
            self._forget_what_is_gone(index)
            for kind in ("waypoint", "result"):
                total = _sum(index)
                self._remove_least(index, kind, total - limit)
        # Waypoints of this run may take the place of older ones, but not of results.
        self._room = min(limit - sizes.get("result", 0) - self._own, self._free() - self._spare())

    def _remove_least(self, index: sqlite3.Connection, kind: Kind, excess: int | None) -> int:
        """Remove entries of a kind, those that are worth least first, until `excess` bytes are gone; None is all."""
        if excess is not None and excess <= 0:
            return 0
        stay = runs_that_stay(self._runs) if kind == "result" else frozenset()
        removed = 0
        gone: list[tuple[str, float]] = []
        query = "select id, bytes, worth from entry where kind = ? order by worth"
        for entry, size, worth in index.execute(query, (kind,)).fetchall():
            if excess is not None and removed >= excess:
                break
            paths = [path for (path,) in index.execute("select path from place where id = ?", (entry,))]
            if any(path.partition("/")[0] in stay for path in paths):
                continue
            for path in paths:
                _remove(self._runs / path)
            gone.append((entry, worth))
            removed += size
        with _transaction(index):
            for table in ("entry", "place", "way"):
                index.executemany(f"delete from {table} where id = ?", [(entry,) for entry, _ in gone])  # noqa: S608 - the names are our own
            if gone and excess is not None:
                index.execute("insert into age values (?)", (gone[-1][1],))
        return removed

    def _forget_what_is_gone(self, index: sqlite3.Connection) -> None:
        """Forget what lay in folders of runs that somebody removed."""
        gone = [run for run in _runs_in(index) if not (self._runs / run).is_dir()]
        if gone:
            with _transaction(index):
                ends = [(f"{run}/", f"{run}0") for run in gone]  # "0" follows "/"
                index.executemany("delete from place where path >= ? and path < ?", ends)
                for table in ("entry", "way"):
                    index.execute(f"delete from {table} where id not in (select id from place)")  # noqa: S608 - the names are our own

    def _limit(self, used: int) -> int:
        given = load_settings().cache_gb
        return int(given * 1e9) if given else (self._free() + used) // 2

    def _spare(self) -> int:
        given = load_settings().spare_gb * 1e9
        return int(given or min(_SPARE_SHARE * shutil.disk_usage(self._runs).total, _SPARE_BYTES))

    def _free(self) -> int:
        return shutil.disk_usage(self._runs).free

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        local = is_local(self._runs)
        path = self._runs / ("results.sqlite" if local else f"results.{socket.gethostname()}.sqlite")
        try:
            with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as index:
                index.execute(f"pragma journal_mode = {'wal' if local else 'delete'}")
                index.execute("pragma synchronous = off")  # it can be made anew; a run should not wait for the disk
                if index.execute("pragma user_version").fetchone()[0] != _VERSION:
                    index.executescript(f"{_SCHEMA} pragma user_version = {_VERSION};")
                yield index
        except sqlite3.Error as error:
            gone = "disk I/O error" in str(error) or not path.exists()
            raise (IndexRemovedError if gone else RunError)(
                f"The index of results {path} cannot be used: {error}",
                "Free space there or mend its permissions; if it is damaged, remove it: it is made anew.",
            ) from error


def _again_if_removed(work: Callable[[], T]) -> T:
    """Do what uses the index; its files may be removed one by one meanwhile, and are made anew."""
    for _ in range(_TRIES - 1):
        with suppress(IndexRemovedError):
            return work()
    return work()


@contextmanager
def _transaction(index: sqlite3.Connection) -> Iterator[None]:
    index.execute("begin immediate")
    try:
        yield
    except BaseException:
        index.execute("rollback")
        raise
    index.execute("commit")


def _write(index: sqlite3.Connection, new: _New, age: float) -> None:
    # What a result cost is known only to the run that computed it.
    index.execute(
        "insert into entry values (?, ?, ?, ?, ?) on conflict (id) do update set bytes = excluded.bytes, "
        "seconds = max(seconds, excluded.seconds), worth = ? + max(seconds, excluded.seconds) / max(excluded.bytes, 1)",
        (new.id, new.kind, new.bytes, new.seconds, age + new.seconds / max(new.bytes, 1), age),
    )
    index.execute("insert or replace into place values (?, ?)", (new.path, new.id))
    index.executemany("insert or replace into way values (?, ?)", [(address, new.id) for address in new.addresses])


def _remove(folder: Path) -> None:
    """Remove a folder that others may be reading: it is gone at once."""
    away = folder.parent / f".{folder.name}.gone"
    try:
        folder.rename(away)
    except OSError:
        away = folder
    shutil.rmtree(away, ignore_errors=True)


def _sum(index: sqlite3.Connection) -> int:
    total: int = index.execute("select coalesce(sum(bytes), 0) from entry").fetchone()[0]
    return total


def _runs_in(index: sqlite3.Connection) -> list[str]:
    return [run for (run,) in index.execute("select distinct substr(path, 1, instr(path, '/') - 1) from place")]
