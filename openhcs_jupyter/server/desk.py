"""Answers requests: who may ask what, and what is said."""

from __future__ import annotations

import getpass
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import psutil

from openhcs_jupyter.door.options import checked
from openhcs_jupyter.errors import OpenHCSError, StreamError
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.accounts import Account
from openhcs_jupyter.server.folders import Folders, read_part
from openhcs_jupyter.server.identity import Clients, Identity
from openhcs_jupyter.server.jobs import Jobs
from openhcs_jupyter.server.model import ENDED, Payload
from openhcs_jupyter.server.orders import LOG
from openhcs_jupyter.server.queue import Queue, Record
from openhcs_jupyter.server.retention import Retention
from openhcs_jupyter.server.settings import ServerSettings
from openhcs_jupyter.streaming.keys import read_invitation
from openhcs_jupyter.topology import Topology

VERSION = version("openhcs-jupyter")


class RefusedError(Exception):
    """A request is not done.

    Parameters
    ----------
    kind
        Of `Refused`.
    message, hint
        For the user.
    """

    def __init__(self, kind: p.RefusedKind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


class Desk:
    """Answers what clients ask who have said who they are."""

    def __init__(
        self,
        settings: ServerSettings,
        queue: Queue,
        jobs: Jobs,
        folders: Folders,
        clients: Clients,
        topology: Topology,
        account_of: Callable[[str], Account],
        retention: Retention,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._jobs = jobs
        self._folders = folders
        self._clients = clients
        self._topology = topology
        self._account_of = account_of
        self._retention = retention
        self._started = time.time()
        self.name = f"{getpass.getuser()}@{platform.node()}"
        self.stopping = False

    def answer(self, request: p.AnyRequest, who: Identity) -> p.AnyReply:
        """Do what is asked.

        Raises
        ------
        RefusedError
            If it cannot be done, or `who` may not ask it.
        """
        match request:
            case p.Submit():
                return self._submit(request, who)
            case p.GetJob():
                return self._said(request.id, self._find(request.job, who))
            case p.ListJobs():
                return self._list(request, who)
            case p.GetEvents():
                record = self._find(request.job, who)
                events = self._queue.events(record, request.after, request.limit)
                return p.EventsAre(
                    id=request.id, job=record.id, events=events, latest=record.events, state=record.state
                )
            case p.GetLog():
                record = self._find(request.job, who)
                return self._part(request.id, self._folders.job(record.id) / LOG, request.offset, record)
            case p.Fetch():
                return self._fetch(request, self._find(request.job, who))
            case p.Cancel():
                return self._said(request.id, self._jobs.cancel(self._find(request.job, who)))
            case p.Park():
                return self._said(request.id, self._jobs.park(self._find(request.job, who)))
            case p.Resume():
                return self._said(request.id, self._jobs.resume(self._find(request.job, who)))
            case p.View():
                return self._view(request, self._find(request.job, who))
            case p.GetServer():
                return self.server(request.id, who)
            case _:
                raise RefusedError("malformed", f"{type(request).__name__} cannot be asked here.")

    def _find(self, job: str, who: Identity) -> Record:
        record = self._queue.find(job)
        if record is None or not (record.owner == who.owner or who.administrator):
            raise RefusedError("unknown", f"There is no job {job}.", "List yours: %openhcs jobs")
        return record

    def _said(self, number: int, record: Record) -> p.JobIs:
        return p.JobIs(id=number, job=record.job(self._jobs.ahead(record)))

    def _submit(self, request: p.Submit, who: Identity) -> p.JobIs:
        known = self._queue.by_key(who.owner, request.key)
        if known is not None:
            return self._said(request.id, known)
        self._account_of(who.owner)
        if self.stopping:
            raise RefusedError("busy", "The server is about to stop.", "Submit again when it is back.")
        quota = self._settings.quota_of(who.owner)
        if quota.queued and len(self._queue.unended(owner=who.owner)) >= quota.queued:
            raise RefusedError(
                "quota", f"{who.owner} has {quota.queued} jobs that have not ended; no more are allowed.",
                "Wait, or cancel some.",
            )  # fmt: skip
        if not self._retention.has_room(who.owner):
            raise RefusedError(
                "quota", f"The code of {who.owner}'s jobs that have not ended fills {quota.code_gb:g} GB; no more may.",
                "Wait, or cancel some.",
            )  # fmt: skip
        self._check(request.payload)
        record = self._jobs.submit(who.owner, request.key, request.payload, request.priority)
        return self._said(request.id, record)

    def _check(self, payload: Payload) -> None:
        options = payload.options
        try:
            checked(options)
        except OpenHCSError as error:
            raise RefusedError("invalid", error.message, error.hint or "") from None
        if options.scheduler or options.resume:
            raise RefusedError(
                "invalid", "--scheduler and --resume are not for jobs: the server says where they run.",
                "Let a job go on with %openhcs resume.",
            )  # fmt: skip
        if options.workers and options.workers > self._jobs.cores:
            raise RefusedError("invalid", f"--workers {options.workers}: the server has {self._jobs.cores} cores.")
        for line in payload.viewers:
            self._check_viewer(line)
        devices = [device.id for device in self._topology.devices]
        if options.device.startswith("gpu") and (options.device if ":" in options.device else "gpu:0") not in devices:
            there = ", ".join(devices) or "no GPU"
            raise RefusedError("invalid", f"--device {options.device}: the server has {there}.")

    @staticmethod
    def _check_viewer(line: str) -> None:
        try:
            read_invitation(line)
        except StreamError as error:
            raise RefusedError("invalid", error.message, error.hint or "") from None

    def _view(self, request: p.View, record: Record) -> p.Shown:
        if request.viewer:
            self._check_viewer(request.viewer)
        if record.dry_run:
            raise RefusedError("invalid", f"Job {record.id} was a dry run: there is nothing to see.")
        if self.stopping:
            raise RefusedError("busy", "The server is about to stop.", "Ask again when it is back.")
        owner = self._account_of(record.owner)
        if record.folder:
            self._part(request.id, Path(record.folder) / "run.json", 0, record)  # it is not shown if it was removed
        elif record.state in ENDED:
            raise RefusedError("gone", f"Job {record.id} has no run: it ended before it was compiled.")
        try:
            self._jobs.shows.ask(record, [request.viewer] if request.viewer else [])
        except OpenHCSError as error:
            raise RefusedError("busy", error.message, error.hint or "") from None
        said = self._said(request.id, record)
        file = f"{owner.name}@{platform.node()}:{self._jobs.shows.file_of(record)}"
        return p.Shown(id=request.id, job=said.job, file=file)

    def _list(self, request: p.ListJobs, who: Identity) -> p.JobsAre:
        if request.everybody and not who.administrator:
            raise RefusedError("identity", "Only administrators see everybody's jobs.")
        before = self._find(request.before, who).number if request.before else None
        found = self._queue.jobs(
            None if request.everybody else who.owner, request.states, before=before, limit=request.limit + 1
        )
        ahead = self._jobs.all_ahead()
        jobs = tuple(record.job(ahead.get(record.id)) for record in found[: request.limit])
        return p.JobsAre(id=request.id, jobs=jobs, more=len(found) > request.limit)

    def _fetch(self, request: p.Fetch, record: Record) -> p.Chunk:
        file = PurePosixPath(request.file)
        if file.is_absolute() or ".." in file.parts or "\0" in request.file:
            raise RefusedError("invalid", f"{request.file} is no file of a run.")
        if not record.folder:
            raise RefusedError("gone", f"Job {record.id} has no run yet.")
        return self._part(request.id, Path(record.folder) / file, request.offset, record)

    def _part(self, number: int, path: Path, offset: int, record: Record) -> p.Chunk:
        try:
            data, size = read_part(path, offset, p.MOST_CHUNK_BYTES, self._account_of(record.owner))
        except FileNotFoundError:
            raise RefusedError("gone", f"There is no {path.name} of job {record.id}.") from None
        except OSError as error:
            raise RefusedError("gone", f"{path.name} of job {record.id} cannot be read: {error.strerror}.") from None
        return p.Chunk(id=number, data=data, offset=offset, size=size)

    def server(self, number: int, who: Identity) -> p.ServerIs:
        """Say how the server is: to administrators all of it, to others what is theirs."""
        active = self._jobs.active
        leased = self._jobs.leased()
        memory = psutil.virtual_memory()
        everybody = self._queue.counts()
        return p.ServerIs(
            id=number,
            name=self.name,
            server_version=VERSION,
            repository=self._settings.repository,
            started=self._started,
            several_owners=bool(self._settings.accounts),
            jobs=everybody if who.administrator else self._queue.counts(who.owner),
            queued=everybody.get("queued", 0),
            active=len(active),
            cores=self._jobs.cores,
            cores_leased=sum(record.workers for record in active.values()),
            devices=tuple(
                p.DeviceUse(
                    id=device.id,
                    name=device.name,
                    memory_bytes=device.memory_bytes,
                    job=self._shown(leased.get(device.id), who),
                )
                for device in self._topology.devices
            ),
            memory_bytes=memory.total,
            memory_free_bytes=memory.available,
            shown=len(self._jobs.shows.accounts),
            clients=len(self._clients),
            stopping=self.stopping,
        )

    def _shown(self, job: str | None, who: Identity) -> str:
        if job is None:
            return ""
        return job if who.administrator or self._jobs.active[job].owner == who.owner else "-"
