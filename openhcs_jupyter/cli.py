"""``openhcs-jupyter``: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from openhcs_jupyter import __version__
from openhcs_jupyter.door import DEFAULT_NAME
from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.magics import jobs_shell
from openhcs_jupyter.magics.demo import add_demo_options
from openhcs_jupyter.magics.options import (
    REPLAYED,
    CommandParser,
    OptionParser,
    add_broker_options,
    add_cache_options,
    add_import_options,
    add_results_options,
    add_run_options,
    add_server_option,
    run_options,
)
from openhcs_jupyter.server.command import add_serve_options, add_token_options

if TYPE_CHECKING:
    from openhcs_jupyter.kernel.findings import Finding
    from openhcs_jupyter.magics.views.render import Rendered
    from openhcs_jupyter.repository import Repository

Handler = Callable[[argparse.Namespace], int]

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv
        The words behind ``openhcs-jupyter``; None takes the process's.

    Returns
    -------
    int
        Exit code: 0 if it worked, 1 if it failed, 2 if it was misused, 130 if it was interrupted.
    """
    try:
        arguments = _parser().parse_args(argv)
        handler: Handler = arguments.handler
        return handler(arguments)
    except UsageError as error:
        return _complain(error, _MISUSED)
    except OpenHCSError as error:
        return _complain(error, _FAILED)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{error or 'Interrupted'}\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="openhcs-jupyter",
        description="Plates, pipelines and runs from the command line, and the kernel for notebooks.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)

    def add(name: str, handler: Handler, text: str, *, repository: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(handler=handler)
        if repository:
            command.add_argument("--repository", metavar="URI", help="a folder, default or demo; left out, the setting")
        return command

    install = add("install", _install, "Install the kernel OpenHCS into Jupyter.")
    place = install.add_mutually_exclusive_group()
    place.add_argument("--user", action="store_true", help="for the user, in every environment")
    place.add_argument("--prefix", metavar="FOLDER", help="into FOLDER/share/jupyter")
    place.add_argument("--sys-prefix", action="store_true", help="for this environment (the default in one)")
    install.add_argument("--name", help="name of the kernelspec; left out, openhcs, or openhcs-HOST")
    install.add_argument("--remote", metavar="USER@HOST", help="kernels run on a machine that ssh reaches")
    install.add_argument("--python", metavar="PATH", help="with --remote: the Python there that has openhcs-jupyter")
    install.add_argument(
        "--idle-hours",
        metavar="N",
        type=float,
        default=12.0,
        help="with --remote: a kernel that nobody has reached for so long, and that has nothing to do, ends; 0: never",
    )
    uninstall = add("uninstall", _uninstall, "Remove the kernel from Jupyter.")
    uninstall.add_argument("--name", default="openhcs", help="name of the kernelspec")
    doctor = add("doctor", _doctor, "Say what is here, what is missing, and what to do.")
    doctor.add_argument("--remote", metavar="NAME", help="look at the machine of a remote kernel")
    import_ = add("import", _import, "Register a plate where it lies; no pixel is copied.", repository=True)
    add_import_options(import_)
    demo = add("demo-plate", _demo_plate, "Make a synthetic plate with known truth.")
    add_demo_options(demo)
    add("plates", _plates, "List the plates.", repository=True)
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
    jobs_shell.add_job_commands(add)
    results = add(
        "results", _results, "Show what a run made and where it is, or delete what it saved.", repository=True
    )
    add_results_options(results)
    viewer = add("viewer", _viewer, "Open a window that shows runs as they go on, or one that has ended.")
    viewer.add_argument(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="a run's folder, a connection file, or HOST:FILE for a file on a machine behind SSH",
    )
    viewer.add_argument(
        "--bind",
        metavar="ADDRESS:PORT",
        help="listen instead, for kernels that are given the line that is printed; 0.0.0.0:5555 listens everywhere",
    )
    viewer.add_argument("--called", metavar="HOST", help="how kernels call this machine; left out, its own name")
    replay = add("replay", _replay, "Print the cell of a run, made again from what was kept of it.", repository=True)
    replay.add_argument("run", nargs="?", metavar="RUN", help=REPLAYED)
    cache = add("cache", _cache, "Show what is kept of runs, and its limit, or clear it.", repository=True)
    add_cache_options(cache)
    functions = add("functions", _functions, "Show the standard functions, or one with its parameters.")
    functions.add_argument("search", nargs="?", metavar="SEARCH", help="a name, or a word of what they do")
    add("gpus", _gpus, "Show the GPUs of this machine.")
    broker = add("broker", _broker, "Hand out pixels' files of OMERO to kernels, as far as OMERO lets them read.")
    add_broker_options(broker)
    add_serve_options(add("serve", _serve, "Run the execution server: jobs that outlive kernels and laptops."))
    add_token_options(add("token", _token, "Make the token by which an execution server knows one of its owners."))
    config = add("config", _config, "Show the settings, or change one.")
    config.add_argument("setting", nargs="?", metavar="NAME")
    config.add_argument("value", nargs="?", metavar="VALUE")
    return parser


def _install(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel import install

    prefix = sys.prefix if arguments.sys_prefix else arguments.prefix
    if arguments.remote:
        return _install_remote(arguments, prefix)
    if arguments.python:
        raise UsageError("--python belongs to --remote", "The kernel of this machine runs in the Python that you call.")
    where = install(user=arguments.user, prefix=prefix, name=arguments.name or "openhcs")
    _say(f"Installed the kernel OpenHCS in {where}")
    return 0


def _install_remote(arguments: argparse.Namespace, prefix: str | None) -> int:
    from openhcs_jupyter.kernel.remote import install_remote, look
    from openhcs_jupyter.kernel.ssh import Host

    if arguments.idle_hours < 0:
        raise UsageError("--idle-hours cannot be negative", "0 lets a forgotten kernel run for ever.")
    if find_spec("sshpyk") is None:
        raise UsageError("Remote kernels need sshpyk.", "Install it here: pip install 'openhcs-jupyter[remote]'.")
    host = Host(arguments.remote, "install")
    try:
        probe = look(host, arguments.python)
        _say(f"openhcs-jupyter {probe.version} on {host.name}, {probe.python}")
        missing = _show_findings(probe.findings)
        kernel = install_remote(
            host, probe, user=arguments.user, prefix=prefix, name=arguments.name, idle_hours=arguments.idle_hours
        )
    finally:
        host.leave()
    _say(f"Installed the kernel {kernel.name} in {kernel.folder}")
    if missing:
        _say(f"{missing} missing on {host.name}; kernels start, and say so where it matters.")
    return 0


def _uninstall(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel import uninstall

    _say(f"Removed {uninstall(arguments.name)}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.kernel.doctor import examine

    if arguments.remote is None:
        findings: Sequence[Finding] = examine()
    else:
        from openhcs_jupyter.kernel.remote import look, remote_kernel
        from openhcs_jupyter.kernel.ssh import Host

        kernel = remote_kernel(arguments.remote)
        host = Host(kernel.host, "doctor")
        try:
            probe = look(host, kernel.python)
        finally:
            host.leave()
        _say(f"openhcs-jupyter {probe.version} on {host.name}, {probe.python}")
        findings = probe.findings
    missing = _show_findings(findings)
    _say(f"{missing} missing." if missing else "Ready.")
    return _FAILED if missing else 0


def _show_findings(findings: Sequence[Finding]) -> int:
    """Show what was found, and return how much is missing."""
    signs = {"ok": "\u2713", "optional": "\u25cb", "missing": "\u2717"}
    for finding in findings:
        _say(f"{signs[finding.state]} {finding.what:<16} {finding.found}")
        if finding.advice:
            _say(f"  {'':<16} {finding.advice}")
    return sum(finding.state == "missing" for finding in findings)


def _import(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.importing import ImportLines, imported_view, register

    with _connect(arguments) as repository:
        plate = register(repository, arguments, ImportLines(f"Reading {arguments.folder}"))
    return _show(imported_view(plate))


def _plates(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.plates import plates_view

    with _connect(arguments) as repository:
        return _show(plates_view(repository.plates(), repository.uri))


def _run(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.config import load_settings
    from openhcs_jupyter.door import read_source
    from openhcs_jupyter.engine import fork_server
    from openhcs_jupyter.magics.batch import run_file, with_first_line

    source = read_source(arguments.file)
    options = with_first_line(source, run_options(arguments))
    if options.server is not None:
        return 0 if jobs_shell.run_there(source, options, follow=True) else _FAILED
    if not (options.dry_run or options.scheduler or load_settings().scheduler):
        fork_server().start()  # it imports while the file is read and compiled
    with _connect(arguments) as repository:
        done = run_file(repository, source, options, _say, traceback=arguments.traceback)
    return 0 if done else _FAILED


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
            _write,
            detach=arguments.detach,
        )
    if arguments.notebook is None or arguments.attach or arguments.detach:
        raise UsageError("batch takes a notebook; --attach and --detach belong to --remote", "Name a notebook.")
    return batch_here(arguments.notebook, output, parameters, _write)


def _runs(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.engine import list_runs
    from openhcs_jupyter.magics.views.runs import runs_view

    with _connect(arguments) as repository:
        return _show(runs_view(list_runs(repository), repository.uri))


def _status(arguments: argparse.Namespace) -> int:
    if arguments.server is not None:
        arguments.job = arguments.run
        return jobs_shell.status(arguments)
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import run_view, view_of

    with _connect(arguments) as repository:
        return _show(run_view(view_of(find_run(repository, arguments.run))))


def _cancel(arguments: argparse.Namespace) -> int:
    if arguments.server is not None:
        arguments.job = arguments.run
        return jobs_shell.cancel(arguments)
    from openhcs_jupyter.magics.follow import blocking, cancel, run_blocking
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import run_view, view_of

    with _connect(arguments) as repository:
        run = find_run(repository, arguments.run)
        run_blocking(cancel(run, blocking))
        return _show(run_view(view_of(run)))


def _results(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.runs import results_view

    with _connect(arguments) as repository:
        run = find_run(repository, arguments.run)
        if arguments.delete:
            sys.stdout.write(f"{repository.delete_results(run.id)}\n")
            return 0
        return _show(results_view(run))


def _plan(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.state import find_run
    from openhcs_jupyter.magics.views.plan import plan_view

    with _connect(arguments) as repository:
        return _show(plan_view(find_run(repository, arguments.run).plan))


def _viewer(arguments: argparse.Namespace) -> int:
    from socket import gethostname

    from openhcs_jupyter.streaming import ListeningSource, Source, open_source
    from openhcs_jupyter.streaming.keys import address_of, is_everywhere

    if (arguments.source is None) == (arguments.bind is None):
        raise UsageError("viewer takes a source or --bind", "%openhcs view in a notebook prints what to open.")
    if arguments.bind is None:
        source: Source = open_source(arguments.source)
    else:
        host, port = address_of(arguments.bind)
        called = arguments.called or (gethostname() if is_everywhere(host) else host)
        listening = ListeningSource(host, port, called=called)
        _say(f"%openhcs view {listening.invitation.line()}")
        source = listening
    from openhcs_jupyter.viewer.main import main as show

    return show(source)


def _replay(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.replay import find_kept, replay_cell
    from openhcs_jupyter.magics.state import find_run

    with _connect(arguments) as repository:
        kept = find_kept(arguments.run, lambda name: find_run(repository, name), repository)
        sys.stdout.write(replay_cell(kept, repository))
    return 0


def _cache(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.cache import cleared_or_shown

    with _connect(arguments) as repository:
        return _show(cleared_or_shown(repository, arguments))


def _functions(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.functions import functions_view

    return _show(functions_view(arguments.search, "openhcs-jupyter functions"))


def _gpus(arguments: argparse.Namespace) -> int:  # noqa: ARG001
    from openhcs_jupyter.magics.views.gpus import gpus_view
    from openhcs_jupyter.topology import discover

    return _show(gpus_view(discover()))


def _broker(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.repository.omero.broker.command import serve

    serve(arguments)
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.server.command import folder_of, serve

    if arguments.status:
        from openhcs_jupyter.client import RemoteOrchestrator
        from openhcs_jupyter.client.profiles import profile_of_folder
        from openhcs_jupyter.magics.views.jobs import server_view

        folder = folder_of(arguments)
        with RemoteOrchestrator(profile=profile_of_folder("server", folder)) as server:
            return _show(server_view(str(folder), server.server()))
    serve(arguments)
    return 0


def _token(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.server.command import new_token

    _say(f"Written: {new_token(arguments)}")
    _say("Give it to its owner, who keeps it where nobody else can read it.")
    return 0


def _config(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.config import save_setting
    from openhcs_jupyter.magics.views.settings import settings_view

    if arguments.value is not None:
        save_setting(arguments.setting, arguments.value)
    return _show(settings_view(arguments.setting))


def _demo_plate(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.demo import demo_spec
    from openhcs_jupyter.magics.importing import ImportLines
    from openhcs_jupyter.magics.views.render import size_text
    from openhcs_jupyter.repository.embedded.synthetic import write_plate

    spec = demo_spec(arguments)
    folder = write_plate(Path(arguments.folder).expanduser(), spec, ImportLines("Fields written"))
    fields = len(spec.wells) * spec.fields
    _say(f"{folder}: {len(spec.wells)} wells, {fields:,} fields, {size_text(spec.pixel_bytes)}; its truth is in truth/")
    _say(f"Register it: openhcs-jupyter import {folder}")
    return 0


def _connect(arguments: argparse.Namespace) -> Repository:
    from openhcs_jupyter.magics.importing import ImportLines
    from openhcs_jupyter.repository import connect

    return connect(arguments.repository, progress=ImportLines("Making the demo plate"))


def _show(rendered: Rendered) -> int:
    _say(rendered.text)
    return 0


def _say(line: str) -> None:
    _write(f"{line}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _complain(error: OpenHCSError, code: int) -> int:
    sys.stderr.write(f"openhcs-jupyter: {error.message}\n")
    for line in (error.hint or "").splitlines():
        sys.stderr.write(f"  {line}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
