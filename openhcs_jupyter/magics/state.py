"""What the magics of one kernel remember: the repository, the chosen plate, the runs, the last error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.widgets.session import is_watched, session

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from openhcs_jupyter.client import RemoteRun
    from openhcs_jupyter.compiler import ExecutionPlan
    from openhcs_jupyter.door import Source
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.kernel.line import Line
    from openhcs_jupyter.magics.servers import Servers
    from openhcs_jupyter.magics.viewing import Viewing
    from openhcs_jupyter.repository import Repository


class State:
    """The memory of the magics.

    Parameters
    ----------
    shell
        The IPython shell that they serve.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.runs: dict[str, Run] = {}
        """By variable."""
        self.plans: dict[str, ExecutionPlan] = {}
        """The last plan by variable."""
        self._going_on: dict[str, Run] = {}
        """By id: runs whose variable holds a later run by now."""
        self.sources: dict[str, Source] = {}
        """By the run's id."""
        self.error: BaseException | None = None
        """What a magic raised last."""
        self.line: Line | None = None
        """To the laptop that started this kernel; None for a kernel that was started on its own machine."""
        self._viewing: Viewing | None = None
        self._servers: Servers | None = None

    @property
    def viewing(self) -> Viewing:
        """What serves viewers."""
        if self._viewing is None:
            from openhcs_jupyter.magics.viewing import Viewing

            self._viewing = Viewing(self.shell, self.line)
        return self._viewing

    @property
    def servers(self) -> Servers:
        """The execution servers that jobs are handed to."""
        if self._servers is None:
            from openhcs_jupyter.magics.servers import Servers

            self._servers = Servers(lambda: _ask_password if is_watched(self.shell) else None)
        return self._servers

    @property
    def plate(self) -> int | None:
        """Id of the plate that cells take when they name none."""
        return session.plate

    @plate.setter
    def plate(self, plate: int | None) -> None:
        session.plate = plate

    @property
    def repository(self) -> Repository:
        """The repository that is connected; joined when it is first needed."""
        if session.repository is None:
            self.connect(None)
            assert session.repository is not None
        return session.repository

    @property
    def namespace(self) -> dict[str, Any]:
        """The user's variables."""
        namespace: dict[str, Any] = self.shell.user_ns
        return namespace

    def connect(self, uri: str | None, progress: Callable[[int, int], None] | None = None) -> Repository:
        """Join a repository and leave the one before.

        Parameters
        ----------
        uri
            As `openhcs_jupyter.repository.connect` takes it; None is what the settings say.
        progress
            Called while the demo's plate is made.
        """
        from openhcs_jupyter.engine import fork_server
        from openhcs_jupyter.repository import connect

        fork_server().start()  # it imports while the user reads; the first cell finds it ready
        repository = connect(uri, progress=progress, password=_ask_password if is_watched(self.shell) else None)
        repository.reach()
        if session.repository is not None:
            session.repository.close()
        session.repository, session.plate = repository, None
        return repository

    def keep(self, name: str, run: Run, source: Source) -> None:
        """Remember a run and put it into the user's variable."""
        earlier = self.runs.pop(name, None)
        if earlier is not None:
            self._going_on[earlier.id] = earlier
        self._going_on = {key: other for key, other in self._going_on.items() if other.status == "running"}
        self.runs[name] = run
        self.sources[run.id] = source
        self.namespace[name] = run

    def keep_jobs(self, name: str, runs: Sequence[Run], sources: Sequence[Source]) -> None:
        """Remember the jobs of one cell; the user's variable is the run, or a list of several."""
        for run, source in zip(runs, sources, strict=True):
            self.keep(name, run, source)
        if len(runs) > 1:
            self.namespace[name] = list(runs)

    def run(self, name: str | None) -> Run:
        """Return a run by its variable, its name or its id; None is the last one.

        Raises
        ------
        UsageError
            If there is no such run.
        """
        if name is None and self.runs:
            return next(reversed(self.runs.values()))
        if name in self.runs:
            return self.runs[name]
        for run in (*self.runs.values(), *self._going_on.values()):
            if run.id == name:
                return run
        return find_run(self.repository, name)

    def job(self, server: str | None, name: str | None) -> RemoteRun:
        """Return a job by the variable that holds it, or by its id on a server; None is the last one.

        Raises
        ------
        UsageError
            If there are none, or there is no such profile.
        ServerError
            If there is no such job, or the server cannot be reached.
        """
        known = self.known_job(name) if server is None else None
        return known or self.servers.job(server, name)

    def known_job(self, name: str | None) -> RemoteRun | None:
        """Return the job that a variable or an id stands for in this kernel; None if it is no job."""
        from openhcs_jupyter.magics.servers import as_job

        if name is None:
            return as_job(next(reversed(self.runs.values()), None))
        found = (run for run in (*self.runs.values(), *self._going_on.values()) if run.id == name)
        return as_job(self.runs.get(name) or next(found, None))

    def job_names(self) -> list[str]:
        """List the variables that hold jobs, and the ids of these jobs."""
        from openhcs_jupyter.magics.servers import as_job

        jobs = [(name, run) for name, run in self.runs.items() if as_job(run) is not None]
        return [*(name for name, _ in jobs), *(run.id for _, run in jobs)]

    def run_names(self) -> list[str]:
        """List what `run` takes: variables, then ids from the store, the newest first."""
        store = self.repository.runs_folder
        ids = (path.name for path in store.iterdir() if path.is_dir()) if store.is_dir() else ()
        return [*self.runs, *sorted(ids, reverse=True)]


def _ask_password(user: str) -> str:
    """Ask the user; what is typed is not shown, and is kept nowhere."""
    import getpass

    return getpass.getpass(f"Password of {user}: ")


def find_run(repository: Repository, name: str | None) -> Run:
    """Load a run from the store by its id or name; None is the last one.

    Raises
    ------
    UsageError
        If there are no runs.
    RunError
        If there is no such run; names what there is.
    """
    from openhcs_jupyter.engine import list_runs, load_run

    if name is None:
        runs = list_runs(repository)
        if not runs:
            raise UsageError(f"There are no runs in {repository.uri}", "A %%openhcs cell makes one.")
        name = runs[0].id
    return load_run(repository, name)
