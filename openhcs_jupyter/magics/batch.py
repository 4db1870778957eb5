"""Runs the pipeline that a file defines, without a notebook."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from openhcs_jupyter.door import (
    DEFAULT_NAME,
    CellError,
    RunOptions,
    Source,
    choose_plate,
    define_steps,
    plan_run,
    python_of,
    script_of,
    start,
)
from openhcs_jupyter.errors import CompileError, OpenHCSError, RunError
from openhcs_jupyter.magics.display import LineDisplay, QuietDisplay
from openhcs_jupyter.magics.errors import RunInterrupted, long, short
from openhcs_jupyter.magics.follow import blocking, follow, run_blocking
from openhcs_jupyter.magics.names import standard_names
from openhcs_jupyter.magics.options import parse_cell
from openhcs_jupyter.magics.variables import with_selected
from openhcs_jupyter.magics.views.plan import plan_view
from openhcs_jupyter.magics.views.runs import run_view, view_of

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.repository import Repository


def run_file(
    repository: Repository,
    source: Source,
    options: RunOptions,
    write: Callable[[str], None],
    *,
    traceback: bool = False,
) -> bool:
    """Run a file's pipeline to its end, with plain lines.

    Parameters
    ----------
    repository
        Holds the plate.
    source
        A Python file that assigns ``pipeline_steps``; has the standard functions at hand.
    options
        What is run and how.
    write
        Takes one line.
    traceback
        Show the long traceback of an error.

    Returns
    -------
    bool
        Whether all went well; if not, standard error says why.

    Raises
    ------
    UsageError
        If the file or the options do not fit.
    """
    # Functions that belong to __main__ go to the workers by value, as those of a notebook do.
    namespace = {**standard_names(), "__name__": "__main__", "__file__": source.filename}
    try:
        _run(repository, source, namespace, options, write)
    except RunInterrupted:
        raise
    except Exception as error:
        if isinstance(error, OpenHCSError) and not isinstance(error, CompileError | RunError | CellError):
            raise
        lines = short(error, source, namespace, color=sys.stderr.isatty(), on_demand="add --traceback")
        sys.stderr.write("\n".join(lines) + "\n")
        if traceback:
            sys.stderr.write(long(error))
        return False
    return True


def with_first_line(source: Source, options: RunOptions) -> RunOptions:
    """Return options with those of a file's first line, where that is a cell's; what is given beside it wins."""
    if not source.line(1).startswith("%%openhcs"):
        return options
    return msgspec.structs.replace(parse_cell(source.line(1).removeprefix("%%openhcs")), **_beside(options))


def _beside(options: RunOptions) -> dict[str, Any]:
    """Return what was given beside a file that has options of its own."""
    given: dict[str, Any] = options.given()
    return given if options.name != DEFAULT_NAME else {key: value for key, value in given.items() if key != "name"}


def _run(
    repository: Repository,
    source: Source,
    namespace: dict[str, object],
    options: RunOptions,
    write: Callable[[str], None],
) -> None:
    def result(run: Run, stopping: bool) -> None:
        write(run_view(view_of(run, stopping=stopping), source).text)

    python = python_of(source)
    steps = define_steps(source, python, namespace)
    plate = choose_plate(repository, options)
    options = with_selected(options, plate)
    plan = plan_run(steps, source, plate, options, script_of(python, namespace))
    if options.dry_run:
        write(plan_view(plan, dry=True).text)
        return
    display = QuietDisplay(result) if options.quiet else LineDisplay(write, result)
    run_blocking(follow(start(plan, options), display, blocking))
