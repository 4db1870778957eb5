"""``%%openhcs``: a cell becomes a pipeline, a plan, a run and a result."""

from __future__ import annotations

import re
import sys

from openhcs_jupyter.door import (
    RunOptions,
    Source,
    choose_plate,
    define_steps,
    plan_run,
    prepare,
    script_of,
    start,
    viewers_of,
)
from openhcs_jupyter.magics.display import display_for
from openhcs_jupyter.magics.errors import reported
from openhcs_jupyter.magics.follow import Pause, follow
from openhcs_jupyter.magics.options import cell_parser, parse_cell
from openhcs_jupyter.magics.state import State
from openhcs_jupyter.magics.variables import checked_name, with_selected
from openhcs_jupyter.magics.views.plan import plan_view
from openhcs_jupyter.magics.views.render import Rendered, card, code, escape, show


async def run_cell(state: State, line: str, cell: str, pause: Pause) -> None:
    """Run one ``%%openhcs`` cell.

    Parameters
    ----------
    state
        The magics' memory.
    line
        What stands behind ``%%openhcs``.
    cell
        The lines below.
    pause
        How to wait while the run goes on.

    Raises
    ------
    OpenHCSError
        Whatever keeps the pipeline from being run, or made it fail.
    RunInterrupted
        If the user interrupted.
    """
    source = _cell_source(state, line, cell)
    try:
        with reported(source, state.namespace):
            options = parse_cell(line)
            if options.help:
                show(Rendered(cell_parser().format_help(), f"<pre>{escape(cell_parser().format_help())}</pre>"))
                return
            # Line 1 of a cell is the magic's own; Python sees an empty line there, so that all numbers are the user's.
            await run_source(state, options, source, f"\n{cell}", pause)
    except BaseException as error:
        state.error = error
        raise


async def run_source(state: State, options: RunOptions, source: Source, python: str, pause: Pause) -> None:
    """Compile and run what a source defines, and show it.

    Parameters
    ----------
    state
        The magics' memory; gets the plan and the run.
    options
        What is run and how.
    source
        What the user wrote.
    python
        The same as Python, with the same line numbers.
    pause
        How to wait while the run goes on.

    Raises
    ------
    OpenHCSError
        Whatever keeps the pipeline from being run, or made it fail.
    RunInterrupted
        If the user interrupted.
    """
    if options.server is not None:
        from openhcs_jupyter.magics.jobs import run_there

        await run_there(state, options, source, pause)
        return
    name = checked_name(options.name, state.namespace)
    prepare(python, options)
    steps = define_steps(source, python, state.namespace)
    plate = choose_plate(state.repository, options, state.plate)
    options = with_selected(options, plate)
    plan = plan_run(steps, source, plate, options, script_of(python, state.namespace))
    state.plans[name] = plan
    if options.dry_run:
        show(plan_view(plan, dry=True))
        return
    run = start(plan, options)
    state.keep(name, run, source)
    for viewer in viewers_of(options, plan):
        show(await state.viewing.view(run, pause, viewer))
    if options.background:
        show(_started(name, run.id))
        return
    display = display_for(state.shell, source, quiet=options.quiet, pictures=options.preview is not None)
    await follow(run, display, pause)


def _cell_source(state: State, line: str, cell: str) -> Source:
    compiler, number = state.shell.compile, _cell_number(state)
    text = f"%%openhcs {line}".rstrip() + f"\n{cell}"
    # Tracebacks and inspect.getsource read the cached lines; a comment keeps them valid Python.
    filename = compiler.cache(f"# {text}", number, raw_code=text)
    return Source(f"Cell In[{number}]", text, filename)


def _cell_number(state: State) -> int:
    """Return the number of the cell that is being run; the shell's own counter may be ahead of it."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        known = state.shell.compile.format_code_name(frame.f_code.co_filename)
        if known is not None and (digits := re.search(r"\d+", known[1])):
            return int(digits[0])
    return int(state.shell.execution_count)


def _started(name: str, run_id: str) -> Rendered:
    text = f"{name}: run {run_id} goes on in the background. Follow it: %openhcs attach {name}"
    markup = card(f"{escape(name)}: run {escape(run_id)} goes on in the background.", [code(f"%openhcs attach {name}")])
    return Rendered(text, markup)
