"""``%openhcs``: its sub-commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable

from openhcs_jupyter.config import save_setting
from openhcs_jupyter.door import DEFAULT_NAME, Source, read_source
from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.cell import run_source
from openhcs_jupyter.magics.display import display_for
from openhcs_jupyter.magics.errors import long, reported
from openhcs_jupyter.magics.follow import Pause, cancel, follow
from openhcs_jupyter.magics.options import (
    REPLAYED,
    CommandParser,
    OptionParser,
    add_cache_options,
    add_import_options,
    add_job_options,
    add_jobs_options,
    add_profile_options,
    add_results_options,
    add_run_options,
    add_server_option,
    add_viewer_option,
    cell_parser,
    run_options,
    split,
)
from openhcs_jupyter.magics.replay import find_kept, replay_cell
from openhcs_jupyter.magics.state import State, find_run
from openhcs_jupyter.magics.views.cache import cleared_or_shown
from openhcs_jupyter.magics.views.gpus import gpus_view
from openhcs_jupyter.magics.views.plan import plan_view
from openhcs_jupyter.magics.views.plates import groups_view, plate_view, plates_view
from openhcs_jupyter.magics.views.render import Rendered, show
from openhcs_jupyter.magics.views.runs import results_view, run_card, runs_view
from openhcs_jupyter.magics.views.settings import settings_view
from openhcs_jupyter.widgets.session import is_watched, widget_view

Handler = Callable[[State, argparse.Namespace, Pause], Awaitable[None]]


def line_parser() -> OptionParser:
    """Return the parser of ``%openhcs``; its sub-parsers know their handlers."""
    parser = OptionParser(prog="%openhcs", description="Plates, runs and settings.", add_help=False, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", parser_class=CommandParser)

    def add(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, add_help=False, allow_abbrev=False, prog=f"%openhcs {name}"
        )
        command.set_defaults(handler=handler)
        return command

    connect = add("connect", _connect, "Join a repository: a folder, demo, or default.")
    connect.add_argument("uri", nargs="?", metavar="REPOSITORY", help="left out, what the settings say")
    add("plates", _plates, "List the plates.")
    group = add("group", _group, "List the groups of OMERO's user, or take only the plates of one.")
    group.add_argument("group", nargs="?", metavar="GROUP", help="its name, or all; left out, the groups are listed")
    plate = add("plate", _plate, "Choose a plate for the cells that follow, and show it.")
    plate.add_argument("plate", nargs="?", metavar="ID", help="id or name; left out, the chosen one is shown")
    import_ = add("import", _import, "Register a plate where it lies; no pixel is copied.")
    add_import_options(import_)
    run = add("run", _run_file, "Run the pipeline that a file defines.")
    run.add_argument("file", metavar="FILE.py", help="assigns pipeline_steps")
    run.add_argument("name", nargs="?", metavar="NAME", default=DEFAULT_NAME, help="variable that holds the run")
    add_run_options(run)
    add("runs", _runs, "List the runs of the repository.")
    for name, handler, text in (
        ("status", _status, "Show a run: how far it is, or what it left."),
        ("attach", _attach, "Follow a run until it ends; an interrupt leaves it running."),
        ("cancel", _cancel, "Stop a run; what is finished is kept."),
        ("plan", _plan, "Show the plan of a run or of the last --dry-run."),
    ):
        command = add(name, handler, text)
        command.add_argument("run", nargs="?", metavar="RUN", help="variable, name or id; left out, the last one")
        if name != "plan":
            add_server_option(command)
    add_jobs_options(add("jobs", _jobs, "List the jobs of an execution server."))
    for name, text in (
        ("resume", "Let a job go on that is parked, cancelled, has failed or needs a login; follow it."),
        ("park", "Stop a job until it is asked to go on."),
        ("log", "Show what the processes of a job have written."),
    ):
        add_job_options(add(name, _job_command, text))
    add_profile_options(add("server", _server, "Show an execution server, or add or remove one."))
    results = add("results", _results, "Show what a run made and where it is, or delete what it saved.")
    add_results_options(results)
    view = add("view", _view, "Show a run in napari, here or on another machine.")
    what = "variable, name or id, or the line of a listening viewer; left out, the last one"
    view.add_argument("run", nargs="?", metavar="RUN", help=what)
    add_viewer_option(view)
    add_server_option(view)
    replay = add("replay", _replay, "Make the cell of a run again, from what was kept of it.")
    replay.add_argument("run", nargs="?", metavar="RUN", help=REPLAYED)
    cache = add("cache", _cache, "Show what is kept of runs, and its limit, or clear what is kept to save time.")
    add_cache_options(cache)
    add("gpus", _gpus, "Show the GPUs of this machine.")
    functions = add("functions", _functions, "List the standard functions, or show the help of one.")
    functions.add_argument("search", nargs="?", metavar="SEARCH", help="a name, or a part of a name or description")
    config = add("config", _config, "Show the settings, or change one.")
    config.add_argument("setting", nargs="?", metavar="NAME", help="of the setting")
    config.add_argument("value", nargs="?", metavar="VALUE", help="kept in the user's settings file")
    add("traceback", _traceback, "Show the long traceback of the last error.")
    help_ = add("help", _help, "Show the sub-commands, or one of them; 'help cell' is about %%%%openhcs.")
    help_.add_argument("topic", nargs="?", metavar="COMMAND")
    return parser


def sub_parsers(parser: argparse.ArgumentParser) -> dict[str, OptionParser]:
    """Return the sub-commands of a parser by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


async def run_line(state: State, line: str, pause: Pause) -> None:
    """Run one ``%openhcs`` line.

    Parameters
    ----------
    state
        The magics' memory.
    line
        What stands behind ``%openhcs``.
    pause
        How to wait for a run.

    Raises
    ------
    OpenHCSError
        If a sub-command, plate, run or setting does not exist, or cannot do what is asked.
    """
    try:
        with reported(None):
            parser = line_parser()
            words = split(line) or ["help"]
            if {"-h", "--help"} & set(words[1:]):
                words = ["help", words[0]]
            if words[0] in ("-h", "--help"):
                words = ["help"]
            arguments = parser.parse_args(words)
            handler: Handler = arguments.handler
            await handler(state, arguments, pause)
    except BaseException as error:
        if not line.strip().startswith("traceback"):
            state.error = error
        raise


async def _jobs(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.magics import jobs

    await jobs.jobs(state, arguments)


async def _server(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.magics import jobs

    await jobs.server(state, arguments)


async def _job_command(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    from openhcs_jupyter.magics import jobs

    await getattr(jobs, arguments.command)(state, state.job(arguments.server, arguments.job), pause)


async def _was_job(state: State, arguments: argparse.Namespace, pause: Pause) -> bool:
    """Do what a sub-command does for a job, where one is meant; tells whether one is."""
    if arguments.server is None and state.known_job(arguments.run) is None:
        return False
    arguments.job = arguments.run
    await _job_command(state, arguments, pause)
    return True


async def _connect(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    progress, finish = _progress(state, "Making the demo plate")
    repository = state.connect(arguments.uri, progress)
    finish(plates_view(repository.plates(), repository.uri))


async def _plates(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    plates = state.repository.plates()
    listed = plates_view(plates, state.repository.uri)
    if not plates or not is_watched(state.shell):
        show(listed)
        return
    from IPython.display import display

    from openhcs_jupyter.widgets.plates import PlatesBrowser

    browser = PlatesBrowser(state.repository, plates)
    display(listed.bundle() | widget_view(browser.widget), raw=True)


async def _group(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    if arguments.group is not None:
        state.repository.choose_group(None if arguments.group == "all" else arguments.group)
    show(groups_view(state.repository.groups(), state.repository.uri))


async def _plate(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    wanted = arguments.plate if arguments.plate is not None else state.plate
    if wanted is None:
        raise UsageError("No plate is chosen", "Choose one: %openhcs plate ID; %openhcs plates lists them.")
    plate = state.repository.plate(int(wanted) if str(wanted).isdecimal() else wanted)
    state.plate = plate.id
    show(plate_view(plate, state.repository.cell_name(plate.id)))


async def _import(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.magics.importing import imported_view, register

    progress, finish = _progress(state, f"Reading {arguments.folder}")
    finish(imported_view(register(state.repository, arguments, progress)))


def _progress(state: State, what: str) -> tuple[Callable[[int, int], None], Callable[[Rendered], None]]:
    """Return what takes the progress of something long, and what shows its result in the same place."""
    from openhcs_jupyter.magics.importing import ImportBar, ImportLines

    if is_watched(state.shell):
        bar = ImportBar(what)
        return bar, bar.show
    return ImportLines(what), show


async def _run_file(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    options = run_options(arguments)
    source = read_source(arguments.file)
    with reported(source, state.namespace):
        await run_source(state, options, source, source.text, pause)


async def _runs(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.engine import list_runs

    show(runs_view(list_runs(state.repository), state.repository.uri))


async def _status(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    if await _was_job(state, arguments, pause):
        return
    run = state.run(arguments.run)
    show(run_card(run, state.sources.get(run.id)))


async def _attach(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    if await _was_job(state, arguments, pause):
        return
    run = state.run(arguments.run)
    source = state.sources.get(run.id) or Source(run.record.source_name, run.record.source, run.record.source_name)
    with reported(source):
        await follow(run, display_for(state.shell, source), pause, stop_run=False)


async def _cancel(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    if await _was_job(state, arguments, pause):
        return
    run = state.run(arguments.run)
    await cancel(run, pause)
    show(run_card(run, state.sources.get(run.id)))


async def _results(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    run = state.run(arguments.run)
    if arguments.delete:
        sys.stdout.write(f"{state.repository.delete_results(run.id)}\n")
        return
    show(results_view(run, state.sources.get(run.id)))


async def _plan(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    if arguments.run in state.plans:
        show(plan_view(state.plans[arguments.run]))
    elif arguments.run is None and state.plans:
        show(plan_view(next(reversed(state.plans.values()))))
    else:
        show(plan_view(find_run(state.repository, arguments.run).plan))


async def _view(state: State, arguments: argparse.Namespace, pause: Pause) -> None:
    line = arguments.run if arguments.run is not None and "://" in arguments.run else None
    name = None if line else arguments.run
    if arguments.server is not None or state.known_job(name) is not None:
        from openhcs_jupyter.magics import jobs

        jobs.view(state.job(arguments.server, name), line or arguments.viewer)
    elif line or arguments.viewer:
        show(await state.viewing.call(line or arguments.viewer, state.run(name), pause))
    else:
        show(await state.viewing.view(state.run(name), pause))


async def _replay(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    cell = replay_cell(find_kept(arguments.run, state.run, state.repository), state.repository)
    if is_watched(state.shell):
        state.shell.set_next_input(cell.rstrip("\n"))
    else:
        sys.stdout.write(cell)


async def _cache(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    show(cleared_or_shown(state.repository, arguments))


async def _gpus(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.topology import discover

    show(gpus_view(discover()))


async def _functions(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    from openhcs_jupyter.magics.views.functions import functions_view

    show(functions_view(arguments.search))


async def _config(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    if arguments.value is not None:
        save_setting(arguments.setting, arguments.value)
    show(settings_view(arguments.setting))


async def _traceback(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    sys.stdout.write(f"{long(state.error)}\n" if state.error else "There was no error.\n")


async def _help(state: State, arguments: argparse.Namespace, pause: Pause) -> None:  # noqa: ARG001 - all of these are called alike
    sys.stdout.write(help_text(arguments.topic))


def help_text(topic: str | None) -> str:
    """Return the help on a sub-command, on the cell magic (``cell``), or on all.

    Raises
    ------
    UsageError
        If there is no such sub-command.
    """
    parser = line_parser()
    if topic is None:
        return f"{parser.format_help()}\nMore: %openhcs help COMMAND, and %openhcs help cell about %%openhcs cells.\n"
    if topic in ("cell", "%%openhcs"):
        return cell_parser().format_help()
    commands = sub_parsers(parser)
    if topic not in commands:
        parser.parse_args([topic])
    return commands[topic].format_help()
