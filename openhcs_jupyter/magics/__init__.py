"""``%openhcs`` and ``%%openhcs``: what loading the extension puts into a kernel."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MAGIC = "openhcs"
_AWAITED = "openhcs_awaited"
"""The same magic where its result is awaited, so that the kernel answers while a run goes on."""
_WAITING = ("attach", "resume", "run", "view")
"""Sub-commands that wait for a run."""
_ATTRIBUTE = "_openhcs_state"


def load(shell: InteractiveShell) -> None:
    """Add the magics, their completion, and the words of a pipeline to a shell; a second call changes nothing.

    Whatever takes time to import waits until it is used, so that a kernel starts as fast as without.

    Parameters
    ----------
    shell
        Of a kernel or a terminal.
    """
    if getattr(shell, _ATTRIBUTE, None) is not None:
        return
    from openhcs_jupyter.magics.state import State

    state = State(shell)
    setattr(shell, _ATTRIBUTE, state)
    _register(shell, state)
    _register_views(shell)
    _register_errors(shell, state)
    shell.input_transformers_post.append(_awaiting(shell))
    add_words = _words(shell)
    if _is_nested():
        add_words()
    else:
        shell.events.register("pre_execute", add_words)
    if shell.Completer is not None:
        shell.Completer.custom_matchers.append(_matcher(state, add_words))
    kernel = getattr(shell, "kernel", None)
    if kernel is not None and hasattr(kernel, "help_links"):
        from openhcs_jupyter.kernel import help_links

        kernel.help_links = [*help_links(), *kernel.help_links]
        _listen(shell, state)
        _take_up_viewers(state, kernel)


def _listen(shell: InteractiveShell, state: Any) -> None:
    """Speak with the user's laptop, if this kernel was started from one."""
    if "OPENHCS_LINE" in os.environ:
        from openhcs_jupyter.kernel.line import line_of

        state.line = line_of(shell)


def _take_up_viewers(state: Any, kernel: Any) -> None:
    """Let the viewers of a kernel that was restarted find it again; what it served them by lies beside its file."""
    file = getattr(getattr(kernel, "parent", None), "abs_connection_file", "")
    kept = f"{os.path.splitext(file)[0]}.openhcs/server.json"  # noqa: PTH122 - pathlib costs time to import
    if os.path.exists(kept):  # noqa: PTH110 - Path is slower to import
        state.viewing.take_up()


def _words(shell: InteractiveShell) -> Callable[[], None]:
    """Return what puts the words of a pipeline among the user's names, once, where the user has none of that name."""
    done = False

    def add() -> None:
        nonlocal done
        if done:
            return
        done = True
        from openhcs_jupyter.magics.names import standard_names

        for name, value in standard_names().items():
            if name not in shell.user_ns:
                shell.push({name: value}, interactive=False)

    return add


def _matcher(state: Any, add_words: Callable[[], None]) -> Callable[[Any], Any]:
    from IPython.core.completer import context_matcher

    @context_matcher()  # type: ignore[untyped-decorator]  # the decorator is not typed
    def openhcs_matcher(context: Any) -> dict[str, Any]:
        add_words()
        text: str = context.text_until_cursor
        if f"%{_MAGIC}" not in text:
            return {"completions": []}
        from openhcs_jupyter.magics.completion import matches

        return matches(state, text)

    matcher: Callable[[Any], Any] = openhcs_matcher
    return matcher


def _register_views(shell: InteractiveShell) -> None:
    """Show runs, plans and plates as cards wherever a cell ends in one."""
    formatter = shell.display_formatter.mimebundle_formatter

    def show_as(module: str, name: str, view: Callable[[Any], Any]) -> None:
        formatter.for_type_by_name(module, name, lambda value, **_: view(value).bundle())

    def run(value: Any) -> Any:
        from openhcs_jupyter.magics.views.runs import run_card

        return run_card(value)

    def plan(value: Any) -> Any:
        from openhcs_jupyter.magics.views.plan import plan_view

        return plan_view(value)

    def plate(value: Any) -> Any:
        from openhcs_jupyter.magics.views.plates import plate_view

        return plate_view(value)

    def job(value: Any) -> Any:
        from openhcs_jupyter.magics.views.jobs import job_view

        return job_view(value)

    show_as("openhcs_jupyter.engine.running", "Run", run)
    show_as("openhcs_jupyter.client.run", "RemoteRun", job)
    show_as("openhcs_jupyter.compiler.plan", "ExecutionPlan", plan)
    show_as("openhcs_jupyter.model", "Plate", plate)


def _register_errors(shell: InteractiveShell, state: Any) -> None:
    """Show our errors briefly in all cells."""

    def remember(error: BaseException) -> None:
        state.error = error

    from openhcs_jupyter.magics.errors import show_briefly

    show_briefly(shell, remember)


def _register(shell: InteractiveShell, state: Any) -> None:
    def work(pause: Callable[[float], Awaitable[None]], line: str, cell: str | None) -> Coroutine[Any, Any, None]:
        from openhcs_jupyter.magics.cell import run_cell
        from openhcs_jupyter.magics.line import run_line

        return run_line(state, line, pause) if cell is None else run_cell(state, line, cell, pause)

    def openhcs(line: str, cell: str | None = None) -> None:
        """Run a pipeline (``%%openhcs``), or a sub-command (``%openhcs``); ``%openhcs help`` lists them."""
        from openhcs_jupyter.magics.follow import blocking, run_blocking

        run_blocking(work(blocking, line, cell))

    def awaited(line: str, cell: str | None = None) -> Coroutine[Any, Any, None]:
        """Do what ``openhcs`` does, awaited; cells are rewritten to this, nobody types it."""
        from asyncio import sleep

        return work(sleep, line, cell)

    shell.register_magic_function(openhcs, "line_cell", _MAGIC)
    shell.register_magic_function(awaited, "line_cell", _AWAITED)


def _awaiting(shell: InteractiveShell) -> Callable[[list[str]], list[str]]:
    """Make an input transformer: IPython awaits no magic by itself, so the call that it made of a cell is rewritten."""
    heads = [f"get_ipython().run_cell_magic('{_MAGIC}', "]
    heads += [f"get_ipython().run_line_magic('{_MAGIC}', '{command}" for command in _WAITING]

    def transform(lines: list[str]) -> list[str]:
        if not shell.autoawait or _is_nested():
            return lines
        return [
            f"await {line.replace(_MAGIC, _AWAITED, 1)}" if line.startswith(tuple(heads)) else line for line in lines
        ]

    return transform


def _is_nested() -> bool:
    """Tell whether a cell is being run already: what %%time or %%capture runs within itself cannot be awaited."""
    from IPython.core.interactiveshell import InteractiveShell

    running = InteractiveShell.run_code.__code__
    frame = sys._getframe(1).f_back
    while frame is not None:
        if frame.f_code is running:
            return True
        frame = frame.f_back
    return False
