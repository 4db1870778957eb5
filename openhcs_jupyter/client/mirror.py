"""A job's run on this machine: its record and events as they come, its results when they are asked for."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from typing import Any

from openhcs_jupyter.client.link import Link
from openhcs_jupyter.engine.journal import Journal
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.errors import ServerError
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import JobEvent, NotCompiled, Planned, StateChanged

_AT_ONCE = 8
"""Parts of files that are asked for before the first has come."""
_RECORD = ("run.json", "plate.json", "plan.json")


class Mirror:
    """A folder like the run's own, filled as it is needed; removed with the object that holds it.

    Parameters
    ----------
    link
        To the server.
    job
        Id of the job.
    """

    def __init__(self, link: Link, job: str) -> None:
        self._link = link
        self._job = job
        path = Path(tempfile.mkdtemp(prefix=f"openhcs-{job}-"))
        self._finalizer = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        self.folder = RunFolder(path)
        self.folder.units.mkdir()
        self._journal: Journal | None = None

    def note(self, events: Iterable[JobEvent]) -> None:
        """Write the events of the run into its journal, those of the job are passed over."""
        if self._journal is None:
            self._journal = Journal(self.folder.journal)
            weakref.finalize(self, self._journal.close)
        for one in events:
            if not isinstance(one.event, StateChanged | Planned | NotCompiled):
                self._journal.append(one.event)

    def fetch_record(self) -> None:
        """Fetch what tells of the run: its record, its plate, its plan.

        Raises
        ------
        ServerError
            If the server cannot be reached, or they are gone.
        """
        for name in _RECORD:
            (self.folder.path / name).unlink(missing_ok=True)  # a run that went on has another plan
        self.fetch(_RECORD)

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch files of the run that are not here yet; each appears whole.

        Raises
        ------
        ServerError
            If the server cannot be reached, or a file is gone.
        """
        for name in names:
            within = PurePosixPath(name)
            if within.is_absolute() or ".." in within.parts:
                raise ServerError(f"The server names a file of job {self._job} that is outside of its run: {name!r}.")
            path = self.folder.path / within
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self._fetch(name, path)

    def _fetch(self, name: str, path: Path) -> None:
        partial = path.with_name(f".{path.name}")
        first = self._link.ask(p.Fetch, p.Chunk, job=self._job, file=name)
        size, step = first.size, max(1, len(first.data))
        waiting: deque[Future[Any]] = deque()
        todo = iter(range(len(first.data), size, step))
        with partial.open("wb") as file:
            file.write(first.data)
            while True:
                for offset in todo:
                    waiting.append(self._link.begin(p.Fetch, job=self._job, file=name, offset=offset))
                    if len(waiting) >= _AT_ONCE:
                        break
                if not waiting:
                    break
                chunk: p.Chunk = waiting.popleft().result()
                if (
                    chunk.offset != file.tell()
                    or chunk.size != size
                    or len(chunk.data) not in (step, size - file.tell())
                ):
                    raise ServerError(f"{name} of job {self._job} changed while it was fetched.", "Try again.")
                file.write(chunk.data)
        partial.replace(path)
