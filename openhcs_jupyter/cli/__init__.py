"""``openhcs-jupyter``: the command line. A module for each kind of command; its first line names them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from openhcs_jupyter import __version__
from openhcs_jupyter.cli import jobs, machine, plates, programs, runs
from openhcs_jupyter.cli.terminal import FAILED, Handler
from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.magics.options import CommandParser, OptionParser

_MISUSED, _INTERRUPTED = 2, 130


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
        arguments = parser().parse_args(argv)
        handler: Handler = arguments.handler
        return handler(arguments)
    except UsageError as error:
        return _complain(error, _MISUSED)
    except OpenHCSError as error:
        return _complain(error, FAILED)
    except KeyboardInterrupt as error:
        sys.stderr.write(f"{error or 'Interrupted'}\n")
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has enough; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def parser() -> OptionParser:
    """Return the parser of all commands."""
    whole = OptionParser(
        prog="openhcs-jupyter",
        description="Plates, pipelines and runs from the command line, and the kernel for notebooks.",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=__version__)
    commands = whole.add_subparsers(metavar="COMMAND", required=True, parser_class=CommandParser)

    def add(name: str, handler: Handler, text: str, *, repository: bool = False) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        command.set_defaults(handler=handler)
        if repository:
            command.add_argument("--repository", metavar="URI", help="a folder, default or demo; left out, the setting")
        return command

    for kind in (machine, plates, runs, jobs, programs):
        kind.add_commands(add)
    return whole


def _complain(error: OpenHCSError, code: int) -> int:
    sys.stderr.write(f"openhcs-jupyter: {error.message}\n")
    for line in (error.hint or "").splitlines():
        sys.stderr.write(f"  {line}\n")
    return code
