"""``openhcs-jupyter`` for runs: run, batch, runs, status, cancel, plan, results, replay, cache."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from openhcs_jupyter.cli import jobs
from openhcs_jupyter.cli.terminal import FAILED, Add, connect, say, show, write
from openhcs_jupyter.door import DEFAULT_NAME
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.options import (
    REPLAYED,
    add_cache_options,
    add_results_options,
    add_run_options,
    add_server_option,
    run_options,
)


def add_commands(add: Add) -> None:
    """Add these commands."""
    run = add("run", _run, "Run the pipeline that a file defines.", repository=True)
    run.add_argument("file", metavar="FILE.py", help="assigns pipeline_steps")
    run.add_argument("name", nargs="?", metavar="NAME", default=DEFAULT_NAME, help="name of the run")
    add_run_options(run, background=False)
    run.add_argument("--traceback", action="store_true", help="show long tracebacks of errors")
    batch = add("batch", _batch, "Execute a notebook to its end, here or on the machine of a remote kernel.")
    batch.add_argument("notebook", nargs="?", metavar="NOTEBOOK")
    batch.add_argument("--remote", metavar="NAME", help="a remote kernel, or its machine; left out, this machine")
    batch.add_argument(
        "-p",
        nargs=2,
        action="append",
        metavar=("NAME", "VALUE"),
        dest="parameters",
        help="value of a variable of the cell that is tagged parameters",
    )
    batch.add_argument("--output", metavar="FOLDER", default=".", help="where the executed notebook and its page go")
    batch.add_argument("--detach", action="store_true", help="with --remote: begin only")
    batch.add_argument("--attach", metavar="ID", help="with --remote: follow a batch that was begun")
    add("runs", _runs, "List the runs.", repository=True)
    for name, handler, text in (
        ("status", _status, "Show a run: how far it is, or what it left."),
        ("cancel", _cancel, "Stop a run, also one of another process; what is finished is kept."),
        ("plan", _plan, "Show the plan of a run."),
    ):
        command = add(name, handler, text, repository=True)
        command.add_argument("run", nargs="?", metavar="RUN", help="name or id; left out, the last one")
        if name != "plan":
            add_server_option(command)
    results = add(
        "results", _results, "Show what a run made and where it is, or delete what it saved.", repository=True
    )
    add_results_options(results)
    replay = add("replay", _replay, "Print the cell of a run, made again from what was kept of it.", repository=True)
    replay.add_argument("run", nargs="?", metavar="RUN", help=REPLAYED)
    cache = add("cache", _cache, "Show what is kept of runs, and its limit, or clear it.", repository=True)
    add_cache_options(cache)


def _run(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.door import prepare, python_of, read_source
    from openhcs_jupyter.magics.batch import run_file, with_first_line

    source = read_source(arguments.file)
    options = with_first_line(source, run_options(arguments))
    if options.server is not None:
        return 0 if jobs.run_there(source, options, follow=True) else FAILED
    prepare(python_of(source), options)
    with connect(arguments) as repository:
        done = run_file(repository, source, options, say, traceback=arguments.traceback)
    return 0 if done else FAILED


def _batch(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel.batch import batch_here, batch_there
    from openhcs_jupyter.kernel.executing import parameters_of

    parameters, output = parameters_of(arguments.parameters), Path(arguments.output).expanduser()
    if arguments.remote is not None:
        return batch_there(
            arguments.remote,
            arguments.notebook,
            arguments.attach,
            output,
            parameters,
            write,
            detach=arguments.detach,
        )
    if arguments.notebook is None or arguments.attach or arguments.detach:
        raise UsageError("batch takes a notebook; --attach and --detach belong to --remote", "Name a notebook.")
    return batch_here(arguments.notebook, output, parameters, write)


def _runs(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.engine import list_runs
    from openhcs_jupyter.magics.views.runs import runs_view

    with connect(arguments) as repository:
        return show(runs_view(list_runs(repository), repository.uri))


def _status(arguments: argparse.Namespace) -> int:
    if arguments.server is not None:
        arguments.job = arguments.run
        return jobs.status(arguments)
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import run_view, view_of

    with connect(arguments) as repository:
        return show(run_view(view_of(find_run(repository, arguments.run))))


def _cancel(arguments: argparse.Namespace) -> int:
    if arguments.server is not None:
        arguments.job = arguments.run
        return jobs.cancel(arguments)
    from openhcs_jupyter.magics.follow import blocking, cancel, run_blocking
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import run_view, view_of

    with connect(arguments) as repository:
        run = find_run(repository, arguments.run)
        run_blocking(cancel(run, blocking))
        return show(run_view(view_of(run)))


def _plan(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.plan import plan_view

    with connect(arguments) as repository:
        return show(plan_view(find_run(repository, arguments.run).plan))


def _results(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import results_view

    with connect(arguments) as repository:
        run = find_run(repository, arguments.run)
        if arguments.delete:
            sys.stdout.write(f"{repository.delete_results(run.id)}\n")
            return 0
        return show(results_view(run))


def _replay(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.replay import find_kept, replay_cell
    from openhcs_jupyter.magics.state import find_run

    with connect(arguments) as repository:
        kept = find_kept(arguments.run, lambda name: find_run(repository, name), repository)
        sys.stdout.write(replay_cell(kept, repository))
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.cache import cleared_or_shown

    with connect(arguments) as repository:
        return show(cleared_or_shown(repository, arguments))
