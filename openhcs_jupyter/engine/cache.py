"""Finds results that an earlier run has made already, by their fingerprints.

Results stay in the folders of the runs that made them; the cache is an index of them. A run that takes a result links
its files, so that each run's folder is whole by itself and can be removed without harm to another.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from openhcs_jupyter.engine.program import Outcome
from openhcs_jupyter.engine.store import RunFolder, stored_files
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import StoredFile

_SCHEMA = """
create table if not exists result (
    fingerprint text primary key, run text not null, folder text not null,
    bytes integer not null, seconds real not null, used real not null
) without rowid
"""
_AT_A_TIME = 500
_FLUSH_S = 1.0


class Found(NamedTuple):
    """A result that an earlier run made."""

    place: Path
    bytes: int


class ResultCache:
    """The index of a run store. Used by one thread; several processes may share the store.

    Parameters
    ----------
    runs
        Folder of the run store.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._new: list[tuple[str, str, str, int, float, float]] = []
        self._flushed = time.monotonic()

    def find(self, fingerprints: Iterable[str]) -> dict[str, Found]:
        """Return the results that are there, by fingerprint.

        Raises
        ------
        RunError
            If the index cannot be read.
        """
        wanted = list(fingerprints)
        found: dict[str, Found] = {}
        with self._open() as index:
            for start in range(0, len(wanted), _AT_A_TIME):
                part = wanted[start : start + _AT_A_TIME]
                marks = ",".join("?" * len(part))
                query = f"select fingerprint, run, folder, bytes from result where fingerprint in ({marks})"  # noqa: S608
                for fingerprint, run, folder, size in index.execute(query, part):
                    found[fingerprint] = Found(RunFolder(self._runs / run).units / folder, size)
        return found

    def take(self, found: Found, folder: RunFolder, key: str) -> tuple[StoredFile, ...] | None:
        """Link a result into another run's folder; None if its files are gone or damaged."""
        partial = folder.units / f".{key}.{os.getpid()}"
        try:
            files = stored_files(found.place)
            if sum(file.size for file in files) != found.bytes:
                return None
            partial.mkdir()
            for file in files:
                _link(found.place / file.name, partial / file.name)
            partial.rename(folder.units / key)
        except FileNotFoundError:
            shutil.rmtree(partial, ignore_errors=True)
            return None
        return files

    def add(self, fingerprint: str, folder: RunFolder, key: str, outcome: Outcome) -> None:
        """Note a result; it is written to the index with others, about every second."""
        size = sum(file.size for file in outcome.files)
        seconds = outcome.read_s + outcome.compute_s
        self._new.append((fingerprint, folder.run_id, key, size, seconds, time.time()))
        if time.monotonic() - self._flushed > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what was noted. Whoever is killed before loses no result: other runs do not find it, that is all.

        Raises
        ------
        RunError
            If the index cannot be written.
        """
        if self._new:
            with self._open() as index, index:
                # What a result cost is known only to the run that computed it.
                index.executemany(
                    "insert into result values (?, ?, ?, ?, ?, ?) on conflict (fingerprint) do update set "
                    "run = excluded.run, folder = excluded.folder, used = excluded.used, "
                    "seconds = max(seconds, excluded.seconds)",
                    self._new,
                )
            self._new.clear()
        self._flushed = time.monotonic()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self._runs / "results.sqlite"
        try:
            with closing(sqlite3.connect(path, timeout=30)) as index:
                index.execute("pragma journal_mode = wal")
                index.execute("pragma synchronous = off")  # it can be made anew; a run should not wait for the disk
                index.execute(_SCHEMA)
                yield index
        except sqlite3.Error as error:
            raise RunError(
                f"The index of results {path} cannot be used: {error}",
                "Free space there or mend its permissions; if it is damaged, remove it: it is made anew.",
            ) from error


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except PermissionError:  # a file system without hard links
        shutil.copyfile(file, target)
