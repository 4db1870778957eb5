"""Shows a run while it goes on: a live card where someone is looking, plain lines where nobody is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from openhcs_jupyter.magics.errors import failure_lines
from openhcs_jupyter.magics.render import Rendered, count_text
from openhcs_jupyter.magics.views import RunView, progress_line, results_view, run_view, view_of

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.magics.errors import Source

_LIVE_INTERVAL_S = 0.25
_SHORTEST_LINE_S, _FIRST_LINE_S, _LONGEST_LINE_S = 1.0, 10.0, 600.0
_TOLD_FAILURES = 10


class Display(Protocol):
    """Follows one run on the screen."""

    tells_failures: bool
    """Someone who sees it needs no second list of the failures."""

    def update(self, run: Run) -> None:
        """Show how far the run is; called often, shows when it is time to."""

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Show what the run left; `stopping`: it was told to stop and may need a moment more."""


class LiveDisplay:
    """One card in the notebook, redrawn in place and at the end replaced by the result.

    Parameters
    ----------
    source
        The cell or file that defined the pipeline.
    result
        Renders what the run left; told whether it may need a moment more to stop.
    """

    tells_failures = True

    def __init__(self, source: Source | None, result: Callable[[Run, bool], Rendered]) -> None:
        self._source = source
        self._result = result
        self._due = 0.0
        self._handle: object | None = None

    def update(self, run: Run) -> None:
        """Redraw the card, at most four times a second."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _LIVE_INTERVAL_S
            self._show(run_view(view_of(run), self._source))

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Replace the card by the result."""
        self._show(self._result(run, stopping))

    def _show(self, rendered: Rendered) -> None:
        from IPython.display import display

        bundle = rendered.bundle()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[attr-defined]


class LineDisplay:
    """Lines at the start, with each tenth of the units, as failures come, and at the end.

    Parameters
    ----------
    write
        Takes one line.
    result
        Shows what the run left; told whether it may need a moment more to stop.
    """

    tells_failures = False

    def __init__(self, write: Callable[[str], None], result: Callable[[Run, bool], None]) -> None:
        self._write = write
        self._result = result
        self._tenths = -1
        self._failures = 0
        self._pause_s = _FIRST_LINE_S
        self._last = self._due = 0.0

    def update(self, run: Run) -> None:
        """Write a line if there is news: a tenth more, a failure, or ten seconds without one (ever longer)."""
        view = view_of(run)
        now = time.monotonic()
        self._tell_failures(view)
        tenths = 10 * (view.done + view.failed) // view.units if view.units else 0
        if now < (self._due if tenths <= self._tenths else self._last + _SHORTEST_LINE_S):
            return
        if tenths <= self._tenths:
            # A night's log should stay readable.
            self._pause_s = min(2 * self._pause_s, _LONGEST_LINE_S)
        else:
            self._pause_s = _FIRST_LINE_S
        if self._tenths < 0:
            self._write(f"{view.name}: {count_text(view.units, 'unit')} on plate {view.plate}, run {view.id}")
        elif tenths < 10:
            self._write(progress_line(view))
        self._tenths = tenths
        self._last, self._due = now, now + self._pause_s

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Write the last failures, then the result."""
        self._tell_failures(view_of(run))
        self._result(run, stopping)

    def _tell_failures(self, view: RunView) -> None:
        new = view.failures[self._failures :]
        room = max(_TOLD_FAILURES - self._failures, 0)
        self._failures += len(new)
        for failure in new[:room]:
            for line in failure_lines([failure], None):
                self._write(f"{view.name}: failed{line.replace('  ', ' ', 1)}")
        if room and len(new) > room:
            self._write(f"{view.name}: further failures are told at the end")


class QuietDisplay:
    """Nothing but the result."""

    tells_failures = False

    def __init__(self, result: Callable[[Run, bool], None]) -> None:
        self._result = result

    def update(self, run: Run) -> None:
        """Show nothing."""

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Show the result."""
        self._result(run, stopping)


def display_for(
    shell: InteractiveShell, source: Source | None, *, quiet: bool = False, pictures: bool = False
) -> Display:
    """Return the display that suits the shell: live in a notebook that someone looks at, else lines.

    Parameters
    ----------
    shell
        Where the run is shown.
    source
        The cell or file that defined the pipeline; failing lines are quoted.
    quiet
        Show the result only.
    pictures
        Show pictures and tables with the result.
    """

    def rendered(run: Run, stopping: bool) -> Rendered:
        whole = pictures and not stopping
        return results_view(run, source) if whole else run_view(view_of(run, stopping=stopping), source)

    def show(run: Run, stopping: bool) -> None:
        from IPython.display import display

        display(rendered(run, stopping).bundle(), raw=True)

    if quiet:
        return QuietDisplay(show)
    if is_watched(shell):
        return LiveDisplay(source, rendered)
    return LineDisplay(_print, show)


def is_watched(shell: InteractiveShell) -> bool:
    """Tell whether a person sees outputs change: not so under nbconvert, papermill, or in a terminal.

    A front end with a person allows input; batch clients do not. ``OPENHCS_BATCH=1`` decides it for lines, ``0`` for
    a live display.
    """
    wish = os.environ.get("OPENHCS_BATCH")
    if wish is not None:
        return wish in ("", "0")
    kernel = getattr(shell, "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201
