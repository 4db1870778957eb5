"""``openhcs-jupyter`` for jobs: submit, jobs, attach, cancel, park, resume, log, view, server."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from openhcs_jupyter.cli.terminal import Add, say
from openhcs_jupyter.door import DEFAULT_NAME, RunOptions, Source, read_source
from openhcs_jupyter.errors import CompileError, RunError
from openhcs_jupyter.magics.errors import short
from openhcs_jupyter.magics.options import (
    add_job_options,
    add_jobs_options,
    add_profile_options,
    add_run_options,
    add_viewer_option,
    run_options,
)

if TYPE_CHECKING:
    from openhcs_jupyter.client import RemoteRun
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.magics.display import Display
    from openhcs_jupyter.magics.servers import Servers

_LATEST = 20
_ENDED_S = 10.0


def add_commands(add: Add) -> None:
    """Add these commands."""
    submit = add("submit", _submit, "Hand in the pipeline that a file defines, as a job of an execution server.")
    submit.add_argument("file", metavar="FILE.py", help="assigns pipeline_steps")
    submit.add_argument("name", nargs="?", metavar="NAME", default=DEFAULT_NAME, help="name of the run")
    add_run_options(submit)
    submit.add_argument("--follow", action="store_true", help="stay until the jobs have ended; exit code as of run")
    add_jobs_options(add("jobs", _jobs, "List the jobs of an execution server."))
    for name, handler, text in (
        ("attach", _attach, "Follow a job until it ends; an interrupt leaves it running."),
        ("resume", _resume, "Let a job go on that is parked, cancelled, has failed or needs a login."),
        ("park", _park, "Stop a job until it is asked to go on."),
        ("log", _log, "Print what the processes of a job have written."),
        ("view", _view, "Show a job in a viewer that listens, while it goes on and after its end."),
    ):
        command = add(name, handler, text)
        add_job_options(command)
        if name == "view":
            add_viewer_option(command)
    add_profile_options(add("server", _server, "Show an execution server, or list, add or remove those you know."))


def run_there(source: Source, options: RunOptions, *, follow: bool) -> bool:
    """Hand in a file as jobs; tells whether all went well, as far as they were followed."""
    from openhcs_jupyter.magics.names import standard_names
    from openhcs_jupyter.magics.remote import submit, submitted_view

    try:
        with _servers() as servers:
            runs = submit(servers.get(options.server), source, options, standard_names())
            if not follow:
                say(submitted_view(runs, "openhcs-jupyter").text)
                return True
            return _followed(runs, source, quiet=options.quiet)
    except CompileError as error:
        return _told(error, source)


def cancel(arguments: argparse.Namespace) -> int:
    """Stop a job."""
    with _job(arguments) as run:
        run.cancel()
        run.wait(_ENDED_S)
        return _show(run)


def status(arguments: argparse.Namespace) -> int:
    """Show a job as it is now."""
    with _job(arguments) as run:
        run.wait_until_known()
        return _show(run)


def _submit(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.batch import with_first_line

    source = read_source(arguments.file)
    options = with_first_line(source, run_options(arguments))
    return 0 if run_there(source, options, follow=arguments.follow or options.dry_run) else 1


def _jobs(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.jobs import jobs_view

    with _servers() as servers:
        server = servers.get(arguments.server)
        found = server.jobs(limit=None if arguments.all else _LATEST, everybody=arguments.everybody)
        say(jobs_view(found, server.name, everybody=arguments.everybody).text)
    return 0


def _attach(arguments: argparse.Namespace) -> int:
    with _job(arguments) as run:
        return 0 if _followed([run], None) else 1


def _resume(arguments: argparse.Namespace) -> int:
    with _job(arguments) as run:
        run.resume()
        return _show(run)


def _park(arguments: argparse.Namespace) -> int:
    with _job(arguments) as run:
        run.park()
        run.wait(_ENDED_S)
        return _show(run)


def _log(arguments: argparse.Namespace) -> int:
    with _job(arguments) as run:
        sys.stdout.write(run.log())
    return 0


def _view(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.remote import viewed

    with _job(arguments) as run:
        run.wait_until_known()
        say(viewed(run, arguments.viewer).text)
    return 0


def _server(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.jobs import server_told

    with _servers() as servers:
        say(server_told(servers, arguments).text)
    return 0


def _followed(runs: list[RemoteRun], source: Source | None, *, quiet: bool = False) -> bool:
    from openhcs_jupyter.magics.display import LineDisplay, QuietDisplay
    from openhcs_jupyter.magics.follow import blocking, run_blocking
    from openhcs_jupyter.magics.remote import LineStates, follow_jobs, source_of
    from openhcs_jupyter.magics.views.plan import plan_view
    from openhcs_jupyter.magics.views.runs import run_view, view_of

    def display_of(run: RemoteRun) -> Display:
        if run.is_dry:
            return QuietDisplay(lambda *_: say(plan_view(run.plan, dry=True).text))

        def result(run_: Run, stopping: bool) -> None:
            say(run_view(view_of(run_, stopping=stopping), source_of(run, source)).text)

        return QuietDisplay(result) if quiet else LineDisplay(say, result)

    def states() -> LineStates:
        return LineStates((lambda _: None) if quiet else say)

    try:
        run_blocking(follow_jobs(runs, display_of, states, blocking, stop_run=source is not None))
    except (CompileError, RunError) as error:
        return _told(error, source_of(runs[0], source) if runs[0].is_planned or source else None)
    return True


def _told(error: CompileError | RunError, source: Source | None) -> bool:
    lines = short(error, source, color=sys.stderr.isatty(), on_demand="openhcs-jupyter log shows what the job printed")
    sys.stderr.write("\n".join(lines) + "\n")
    return False


def _show(run: RemoteRun) -> int:
    from openhcs_jupyter.magics.views.jobs import job_view

    say(job_view(run).text)
    return 0


@contextmanager
def _servers() -> Iterator[Servers]:
    from openhcs_jupyter.magics.servers import Servers

    servers = Servers(lambda: _ask_password if sys.stdin.isatty() else None)
    try:
        yield servers
    finally:
        servers.close()


@contextmanager
def _job(arguments: argparse.Namespace) -> Iterator[RemoteRun]:
    with _servers() as servers:
        yield servers.job(arguments.server, arguments.job)


def _ask_password(user: str) -> str:
    return getpass.getpass(f"Password of {user}: ")
