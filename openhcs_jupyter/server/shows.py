"""Jobs that are shown in viewers, by processes that outlive the jobs, hold no lease and end by themselves."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.server import limits, processes
from openhcs_jupyter.server.accounts import Account, acting_as
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.server.model import ENDED
from openhcs_jupyter.server.orders import STREAM
from openhcs_jupyter.server.queue import Queue, Record
from openhcs_jupyter.server.seats import Seats
from openhcs_jupyter.server.settings import ServerSettings
from openhcs_jupyter.server.showing import ShowOrders, write_show

_MOST_VIEWERS = 8
"""That are called for one job."""


class Show(msgspec.Struct, frozen=True, kw_only=True):
    """What the server keeps of a job that somebody wants to see."""

    job: str
    owner: str
    viewers: tuple[str, ...] = ()
    """Listening viewers, by their lines."""
    since: float = 0.0
    """When its process was started."""
    seat: str = ""
    """Mark of that process; empty where there is none."""
    process: processes.ProcessId | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Show).decode


class Shows:
    """All jobs of one server that are shown, or are to be once they are compiled. Used by one thread."""

    def __init__(
        self,
        settings: ServerSettings,
        queue: Queue,
        folders: Folders,
        seats: Seats,
        account_of: Callable[[str], Account],
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._folders = folders
        self._seats = seats
        self._account_of = account_of
        self._shows: dict[str, Show] = {}

    @property
    def accounts(self) -> dict[str, int]:
        """The marks of the processes, and of each the number of its account."""
        return {show.seat: self._account_of(show.owner).uid for show in self._up()}

    def take_up(self) -> set[str]:
        """Find the processes of an earlier server, which go on; returns their marks."""
        for show in map(_decode, self._queue.shows()):
            self._shows[show.job] = show
            try:
                self._account_of(show.owner)
            except UsageError:
                self.end(show.job)
        self._sweep()
        return {show.seat for show in self._up()}

    def file_of(self, record: Record) -> Path:
        """Return the file by which viewers of the job's account connect."""
        from openhcs_jupyter.streaming.server import CONNECTION

        return self._folders.job(record.id) / STREAM / CONNECTION

    def ask(self, record: Record, viewers: Sequence[str]) -> None:
        """Show a job's run, once there is one: to some listening viewers, and to who connects.

        Raises
        ------
        OSError, OpenHCSError
            If no process can be started.
        """
        show = self._shows.get(record.id) or Show(job=record.id, owner=record.owner)
        lines = tuple(dict.fromkeys((*show.viewers, *viewers)))[-_MOST_VIEWERS:]
        self._keep(msgspec.structs.replace(show, viewers=lines))
        if record.folder:
            self.begin(record)

    def begin(self, record: Record) -> None:
        """Show a job that has a run now, if somebody wants that; errors as of `ask`."""
        show = self._shows.get(record.id)
        if show is None:
            return
        owner, folder = self._account_of(show.owner), self._folders.job(show.job)
        idle_s = 60 * self._settings.show_minutes
        with acting_as(owner):
            write_show(folder, ShowOrders(job=show.job, run=record.folder, viewers=show.viewers, idle_s=idle_s))
        if _is_up(show):
            return
        self._make_room(show.owner)
        seat = self._seats.take_to_show(owner)
        if seat.id is None:
            seat.end()
            raise OpenHCSError(f"The process that shows job {show.job} has ended at once.")
        # Noted before it is handed over: a server that is started again finds it.
        self._keep(msgspec.structs.replace(show, since=time.time(), seat=seat.mark, process=seat.id))
        seat.give(folder)

    def end(self, job: str) -> None:
        """Show a job no longer."""
        show = self._shows.get(job)
        if show is not None:
            _end_processes(show)
            self._forget(show, for_good=True)

    def close(self) -> None:
        """End all processes; jobs that go on later are shown again then."""
        for show in self._up():
            _end_processes(show)
            self._forget(show)

    def look(self, usages: Mapping[str, processes.Usage]) -> None:
        """Forget processes that have ended, and end those that use more than a job may."""
        for show in self._up():
            usage = usages.get(show.seat, processes.Usage())
            if limits.exceeded(self._settings.limits, usage, time.time() - show.since) is not None:
                self.end(show.job)
        self._sweep()

    def _sweep(self) -> None:
        if not self._shows:
            return
        unended = {record.id for record in self._queue.unended()}
        for show in list(self._shows.values()):
            if show.seat and not _is_up(show):
                _end_processes(show)
                self._forget(show)
            elif not show.seat and show.job not in unended:
                self._forget(show)

    def _make_room(self, owner: str) -> None:
        """End the earliest of an owner who has as many as one may have."""
        most = self._settings.quota_of(owner).shown
        own = sorted((show for show in self._up() if show.owner == owner), key=lambda show: show.since)
        for show in own[: len(own) - most + 1] if most else ():
            self.end(show.job)

    def _up(self) -> list[Show]:
        return [show for show in self._shows.values() if show.seat]

    def _keep(self, show: Show) -> None:
        self._queue.keep_show(show.job, _encode(show))
        self._shows[show.job] = show

    def _forget(self, show: Show, *, for_good: bool = False) -> None:
        """Forget a process; of a job that has not ended it is known still that it is to be shown."""
        record = None if for_good else self._queue.find(show.job)
        if record is None or record.state in ENDED:
            self._queue.keep_show(show.job, None)
            del self._shows[show.job]
        else:
            self._keep(msgspec.structs.replace(show, seat="", process=None))


def _is_up(show: Show) -> bool:
    return show.process is not None and processes.process_id(show.process.pid) == show.process


def _end_processes(show: Show) -> None:
    if show.process is not None:
        processes.send(show.process, signal.SIGKILL)
        processes.end_all(show.seat)
