"""``%openhcs`` for jobs: jobs, attach, cancel, park, resume, log, view, server."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.door import DEFAULT_NAME, RunOptions, Source
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.display import QuietDisplay, display_for
from openhcs_jupyter.magics.errors import reported
from openhcs_jupyter.magics.follow import Pause, until_stopped
from openhcs_jupyter.magics.remote import (
    LineStates,
    StateDisplay,
    follow_jobs,
    source_of,
    submit,
    submitted_view,
    viewed,
)
from openhcs_jupyter.magics.servers import Servers, add_profile
from openhcs_jupyter.magics.state import State
from openhcs_jupyter.magics.variables import checked_name
from openhcs_jupyter.magics.views.jobs import job_view, jobs_view, profiles_view, server_view, state_view
from openhcs_jupyter.magics.views.plan import plan_view
from openhcs_jupyter.magics.views.render import Rendered, show
from openhcs_jupyter.widgets.session import is_watched

if TYPE_CHECKING:
    from openhcs_jupyter.client import RemoteRun
    from openhcs_jupyter.magics.display import Display

_LATEST = 20
_TICK_S, _ENDED_S = 0.1, 10.0


async def run_there(state: State, options: RunOptions, source: Source, pause: Pause) -> None:
    """Hand in a cell or file as jobs, and follow them unless they are to be left in the background."""
    name = checked_name(options.name, state.namespace)
    runs = submit(state.servers.get(options.server), source, options, state.namespace)
    if options.dry_run:
        state.sources |= {run.id: source_of(run, source) for run in runs}
    else:
        state.keep_jobs(name, runs, [source_of(run, source) for run in runs])
    if options.background:
        show(submitted_view(runs))
        return
    await _follow(state, runs, pause, options=options)
    if options.dry_run:
        state.plans[name] = runs[-1].plan


async def jobs(state: State, arguments: argparse.Namespace) -> None:
    """List jobs."""
    server = state.servers.get(arguments.server)
    limit = None if arguments.all else _LATEST
    show(jobs_view(server.jobs(limit=limit, everybody=arguments.everybody), server.name, everybody=arguments.everybody))


async def attach(state: State, run: RemoteRun, pause: Pause) -> None:
    """Follow a job."""
    await _follow(state, [run], pause, stop_run=False)


async def status(state: State, run: RemoteRun, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    """Show a job as it is now."""
    while not run.is_known:
        await pause(_TICK_S)
    show(job_view(run, source_of(run)) if run.is_planned else state_view(run, run.job))


async def cancel(state: State, run: RemoteRun, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    """Stop a job."""
    run.cancel()
    await until_stopped(run, pause, _ENDED_S)
    show(job_view(run, source_of(run)) if run.is_planned else state_view(run))


async def park(state: State, run: RemoteRun, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    """Stop a job until it is asked to go on."""
    run.park()
    await until_stopped(run, pause, _ENDED_S)
    show(state_view(run))


async def resume(state: State, run: RemoteRun, pause: Pause) -> None:
    """Let a job go on, and follow it."""
    run.resume()
    await _follow(state, [run], pause, stop_run=False)


def view(run: RemoteRun, viewer: str | None) -> None:
    """Show a job in napari."""
    show(viewed(run, viewer))


async def log(state: State, run: RemoteRun, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    """Show what a job's processes have written."""
    sys.stdout.write(run.log())


async def server(state: State, arguments: argparse.Namespace) -> None:
    """Show a server, or change what the user knows of servers."""
    show(server_told(state.servers, arguments))


def server_told(servers: Servers, arguments: argparse.Namespace) -> Rendered:
    """Do what stands behind ``server``, and return what is to be shown."""
    from openhcs_jupyter.client import load_profile, profile_names, remove_profile

    if arguments.action == "list":
        return profiles_view([load_profile(name) for name in profile_names()])
    if arguments.action == "remove":
        if not arguments.name:
            raise UsageError("Which server is to be removed?", "%openhcs server list names them.")
        remove_profile(arguments.name)
        return profiles_view([load_profile(name) for name in profile_names()])
    name = add_profile(arguments).name if arguments.action == "add" else arguments.name
    connected = servers.get(name)
    return server_view(connected.name, connected.server())


async def _follow(
    state: State,
    runs: list[RemoteRun],
    pause: Pause,
    *,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    stop_run: bool = True,
) -> None:
    def display_of(run: RemoteRun) -> Display:
        if run.is_dry:
            return QuietDisplay(lambda *_: show(plan_view(run.plan, dry=True)))
        if run.id not in state.sources:
            state.keep(run.name if run.name.isidentifier() else DEFAULT_NAME, run, source_of(run))
        source = state.sources[run.id]
        return display_for(state.shell, source, quiet=options.quiet, pictures=options.preview is not None)

    def states() -> StateDisplay:
        return _states(state, quiet=options.quiet)

    with reported(state.sources.get(runs[0].id)):
        await follow_jobs(runs, display_of, states, pause, stop_run=stop_run)


def _states(state: State, *, quiet: bool) -> StateDisplay:
    if quiet:
        return LineStates(lambda _: None)
    return _StateWidget() if is_watched(state.shell) else LineStates(lambda line: print(line, flush=True))  # noqa: T201 - a line for people where there is no widget


class _StateWidget:
    """States in one place of the cell's output."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, rendered: Rendered) -> None:
        """Show it in place of what was shown before."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(rendered.bundle(), raw=True, display_id=True)
        else:
            self._handle.update(rendered.bundle(), raw=True)

    begin = show
