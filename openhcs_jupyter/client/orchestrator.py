"""`RemoteOrchestrator`: pipelines handed to an execution server from Python."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from openhcs_jupyter.client.identity import Credentials
from openhcs_jupyter.client.link import Link
from openhcs_jupyter.client.profiles import Profile, find_profile, load_profile, profile_names
from openhcs_jupyter.client.run import RemoteRun
from openhcs_jupyter.closing import Closing
from openhcs_jupyter.door.options import RunOptions, checked
from openhcs_jupyter.door.payload import Code, code_of_steps
from openhcs_jupyter.errors import ServerError, UsageError
from openhcs_jupyter.pipeline import FunctionStep, Step
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import ENDED, AnyJobEvent, Job, JobEvent, JobState, Payload, new_key
from openhcs_jupyter.streaming.known import viewer_line

_LOOK_S = 0.5
_VIEWER_PORT = 5555


class RemoteOrchestrator(Closing):
    """Hands pipelines to an execution server; a context manager.

    A connection that is cut comes back by itself, and what was asked meanwhile is asked again: a job is never made
    twice. Jobs go on when this ends.

    Parameters
    ----------
    host, port
        Of the server; left out, the profile's. With a profile they say where it is reached from here, by a tunnel for
        example.
    profile
        One that ``openhcs-jupyter server add`` made, or its name: holds the server's key and proves who the user is.
        Left out, the one of this host and port, or the only one.
    password
        Asks a user of OMERO for the password where no session can be joined; left out, that is an error.

    Raises
    ------
    UsageError
        If there is no such profile.
    RepositoryError
        If OMERO cannot be reached, or lets the user not in.

    Examples
    --------
    >>> with RemoteOrchestrator("gpu.lab.edu", 7777) as server:  # doctest: +SKIP
    ...     run = server.run_remote_pipeline(51, [Step(max_projection, save=True)], {"wells": "A01:B12"})
    ...     images = run.result().image("max_projection", well="A01")
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        profile: Profile | str | None = None,
        *,
        password: Callable[[str], str] | None = None,
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else _profile(host, port, profile)
        self._credentials = Credentials(self.profile, password)
        self._link = Link(
            host or self.profile.host,
            port or self.profile.port,
            self.profile.key,
            self._credentials.said,
            self.profile.name,
        )

    @property
    def name(self) -> str:
        """The user's name for the server."""
        return self.profile.name

    def run_remote_pipeline(
        self,
        plate_id: int | str,
        pipeline_steps: Sequence[Step | FunctionStep | Any],
        config: Mapping[str, Any] | RunOptions | Any = None,
        viewer_host: str | None = None,
        viewer_port: int | None = None,
        *,
        name: str = "run",
    ) -> RemoteRun:
        """Hand in a pipeline and return its run, which goes on by itself; ``.result()`` waits for it.

        Parameters
        ----------
        plate_id
            Id or name of the plate in the server's repository.
        pipeline_steps
            Steps, OpenHCS's too. They are sent as source code.
        config
            The options of a cell, by name: ``{"wells": "A01:B12", "save": True}``; or a configuration of OpenHCS's.
        viewer_host, viewer_port
            Of a listening viewer that shows the run. For the first time the line that it prints stands for both: it
            lets the server's jobs in.
        name
            Of the run.

        Raises
        ------
        CompileError
            If a step has what cannot be written as source; names it and the step.
        UsageError
            If an option does not fit.
        ServerError
            If the server cannot be reached, or refuses.
        """
        return self.attach(self.submit(plate_id, pipeline_steps, config, viewer_host, viewer_port, name=name))

    def submit(
        self,
        plate_id: int | str,
        pipeline_steps: Sequence[Step | FunctionStep | Any],
        config: Mapping[str, Any] | RunOptions | Any = None,
        viewer_host: str | None = None,
        viewer_port: int | None = None,
        *,
        name: str = "run",
        priority: int = 0,
    ) -> str:
        """Hand in a pipeline and return the job's id; parameters and errors as of `run_remote_pipeline`.

        Parameters
        ----------
        priority
            Among the user's own jobs, from -100 to 100; larger ones come first.
        """
        options, theirs = _options(config)
        options = msgspec.structs.replace(options, plate=str(plate_id), name=name)
        viewers = (viewer_line(viewer_host, viewer_port or _VIEWER_PORT),) if viewer_host else ()
        return self.submit_code(code_of_steps(pipeline_steps, theirs), options, viewers=viewers, priority=priority).id

    def submit_code(
        self,
        code: Code,
        options: RunOptions,
        *,
        viewers: Sequence[str] = (),
        priority: int = 0,
        key: str | None = None,
    ) -> Job:
        """Hand in a pipeline that is source code already.

        Parameters
        ----------
        code
            The pipeline.
        options
            The plate, what of it, and how.
        viewers
            Lines of listening viewers.
        priority
            Among the user's own jobs.
        key
            Of the job: handed in again with the same key, it is the same job. Left out, a new one.

        Raises
        ------
        UsageError
            If the options do not fit.
        ServerError
            If the server cannot be reached, or refuses.
        """
        payload = Payload(
            name=options.name,
            cell=code.cell,
            before=code.before,
            modules=code.modules,
            text=code.text if code.text != code.cell else "",
            text_name=code.text_name,
            options=checked(options),
            viewers=tuple(viewers),
        )
        return self._link.ask(p.Submit, p.JobIs, key=key or new_key(), payload=payload, priority=priority).job

    def attach(self, job_id: str) -> RemoteRun:
        """Return the run of a job, whatever its state.

        Raises
        ------
        ServerError
            If there is no such job of this user.
        """
        return self.run_of(self.get_status(job_id))

    def run_of(self, job: Job) -> RemoteRun:
        """Return the run of a job that is at hand."""
        return RemoteRun(self._link, job)

    def get_status(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises
        ------
        ServerError
            If there is no such job of this user, or the server cannot be reached.
        """
        return self._link.ask(p.GetJob, p.JobIs, job=job_id).job

    def jobs(self, states: Sequence[JobState] = (), *, limit: int | None = 100, everybody: bool = False) -> list[Job]:
        """List the user's jobs, the latest first.

        Parameters
        ----------
        states
            Only those in one of these states; empty: all.
        limit
            At most so many; None: all.
        everybody
            For administrators: jobs of all owners.
        """
        found: list[Job] = []
        while limit is None or len(found) < limit:
            most = p.MOST_LISTED if limit is None else min(p.MOST_LISTED, limit - len(found))
            before = found[-1].id if found else ""
            page = self._link.ask(
                p.ListJobs, p.JobsAre, states=tuple(states), before=before, limit=most, everybody=everybody
            )
            found += page.jobs
            if not page.more:
                break
        return found

    def events(self, job_id: str, *, follow: bool = True) -> Iterator[AnyJobEvent]:
        """Iterate over what has happened to a job: its states, and the events of its run.

        Parameters
        ----------
        job_id
            The job.
        follow
            Wait for what is yet to happen, until the job has ended.
        """
        latest = self.get_status(job_id).events
        news: queue.SimpleQueue[tuple[JobState, int, tuple[JobEvent, ...]]] = queue.SimpleQueue()
        leave = self._link.follow(job_id, lambda *told: news.put(told))
        at, state = 0, "queued"
        try:
            while at < latest or (follow and state not in ENDED):
                try:
                    state, last, events = news.get(timeout=_LOOK_S)
                except queue.Empty:
                    if not self._link.is_open:
                        return
                    continue
                latest = max(latest, last)
                for one in events:
                    at = one.number
                    yield one.event
        finally:
            leave()

    def cancel(self, job_id: str) -> Job:
        """Stop a job; what is finished is kept. Returns it as it is now: it stops within moments."""
        return self._link.ask(p.Cancel, p.JobIs, job=job_id).job

    def park(self, job_id: str) -> Job:
        """Stop a job until it is asked to go on."""
        return self._link.ask(p.Park, p.JobIs, job=job_id).job

    def resume(self, job_id: str) -> Job:
        """Let a job go on that is parked, cancelled, has failed or needs a login."""
        return self._link.ask(p.Resume, p.JobIs, job=job_id).job

    def view(self, job_id: str, viewer_host: str | None = None, viewer_port: int | None = None) -> str:
        """Show the run of a job in a viewer, while it goes on and after its end.

        Parameters
        ----------
        job_id
            The job.
        viewer_host, viewer_port
            Of a listening viewer, as of `run_remote_pipeline`; left out, viewers are waited for.

        Returns
        -------
        str
            What ``openhcs-jupyter viewer`` opens on any machine that reaches the server's by SSH.

        Raises
        ------
        StreamError
            If the viewer is not known yet.
        ServerError
            If there is no such job of this user, its run was removed, or the server cannot be reached.
        """
        line = viewer_line(viewer_host, viewer_port or _VIEWER_PORT) if viewer_host else ""
        return self._link.ask(p.View, p.Shown, job=job_id, viewer=line).file

    def result(self, job_id: str) -> RemoteRun:
        """Wait for a job and return its run.

        Raises
        ------
        RunError
            If it has not ended well; tells why.
        """
        return self.attach(job_id).result()

    def log(self, job_id: str) -> str:
        """Return what a job's processes have written to their output."""
        run = self.attach(job_id)
        try:
            return run.log()
        finally:
            run.close()

    @property
    def repository(self) -> str:
        """URI of the repository from which jobs take their plates."""
        return self.server().repository

    def server(self) -> p.ServerIs:
        """Return how the server is: queue, jobs, cores, GPUs, memory."""
        return self._link.ask(p.GetServer, p.ServerIs)

    def ping(self) -> bool:
        """Tell whether the server answers and lets the user in."""
        try:
            self._link.ask(p.GetServer, p.ServerIs)
        except ServerError:
            return False
        return True

    def close(self) -> None:
        """End the connection; jobs go on."""
        self._link.close()
        self._credentials.close()

    def __repr__(self) -> str:
        return f"<RemoteOrchestrator {self.name} ({self.profile.address})>"


def _profile(host: str | None, port: int | None, name: str | None) -> Profile:
    if name is not None or host is None:
        return find_profile(name)
    profiles = [load_profile(name) for name in profile_names()]
    found = [profile for profile in profiles if profile.host == host and port in (None, profile.port)]
    if not found:
        raise UsageError(
            f"No profile of yours is of {host}{f':{port}' if port else ''}",
            "Name one: profile='NAME', or add it: openhcs-jupyter server add NAME LINE.",
        )
    return found[0]


def _options(config: Any) -> tuple[RunOptions, object]:
    """Return the options that a configuration says, and the configuration where it is OpenHCS's."""
    if config is None:
        return RunOptions(), None
    if isinstance(config, RunOptions):
        return config, None
    if not isinstance(config, Mapping):
        workers = getattr(config, "num_workers", None)
        return RunOptions(workers=workers if isinstance(workers, int) and workers > 0 else None), config
    known = set(RunOptions.__struct_fields__)
    for name in config:
        if name not in known:
            raise UsageError(f"There is no option {name!r}", f"Options: {', '.join(sorted(known))}.")
    try:
        return msgspec.convert(dict(config), RunOptions), None
    except msgspec.ValidationError as error:
        raise UsageError(f"An option does not fit: {error}") from None
