"""Shows a run while it goes on: its widget where someone is looking, plain lines where nobody is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from openhcs_jupyter.magics.errors import failure_lines
from openhcs_jupyter.magics.views.render import Rendered, count_text
from openhcs_jupyter.magics.views.runs import (
    RunView,
    progress_line,
    results_view,
    run_card,
    run_view,
    sentence,
    view_of,
)
from openhcs_jupyter.widgets.session import is_watched, widget_view

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from openhcs_jupyter.door import Source
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.widgets.run import RunDisplay

_MOMENT_S = 0.3
_ANSWERED_S = 10.0
"""A browser that shows widgets has answered by then."""
_FOLLOWED_S = 0.1
_SHORTEST_LINE_S, _FIRST_LINE_S, _LONGEST_LINE_S = 1.0, 10.0, 600.0
_TOLD_FAILURES = 10


class Display(Protocol):
    """Follows one run on the screen."""

    tells_failures: bool
    """Someone who sees it needs no second list of the failures."""

    @property
    def is_detached(self) -> bool:
        """Whether the user wants the cell to end and the run to go on."""

    def update(self, run: Run) -> None:
        """Show how far the run is; called often, shows when it is time to."""

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Show what the run left; `stopping`: it was told to stop and may need a moment more."""


class WatchedDisplay:
    """A widget in the notebook, at the end replaced by the result; plain lines where nothing shows widgets.

    Parameters
    ----------
    lines
        Takes over while no browser has answered.
    result
        Renders what the run left; told whether it may need a moment more to stop.
    """

    tells_failures = True

    def __init__(self, lines: LineDisplay, result: Callable[[Run, bool], Rendered]) -> None:
        self._lines = lines
        self._result = result
        self._begin = time.monotonic()
        self._handle: Any = None
        self._widget: RunDisplay | None = None

    @property
    def is_detached(self) -> bool:
        """Whether the user wants the cell to end and the run to go on."""
        return self._widget is not None and not self._widget.following

    def update(self, run: Run) -> None:
        """Show the widget if the run takes more than a moment, and what has changed."""
        waited = time.monotonic() - self._begin
        if self._widget is None:
            if waited >= _MOMENT_S:
                self._open(run)
            return
        self._widget.update()
        if waited >= _ANSWERED_S and not self._widget.is_seen:
            self._lines.update(run)

    def finish(self, run: Run, *, stopping: bool = False) -> None:
        """Replace the widget by the result."""
        from IPython.display import display

        bundle = self._result(run, stopping).bundle()
        if self._handle is None:
            display(bundle, raw=True)
        else:
            self._handle.update(bundle, raw=True)
        if self._widget is not None:
            self._widget.finish(bundle)

    def _open(self, run: Run) -> None:
        from IPython.display import display

        from openhcs_jupyter.widgets.run import RunDisplay

        self._widget = RunDisplay(run, lambda run: sentence(view_of(run)))
        self._widget.on_attach = lambda: self._follow_on(run)
        view = run_view(view_of(run))
        bundle = view.bundle() | widget_view(self._widget.widget)
        self._handle = display(bundle, raw=True, display_id=True)

    def _follow_on(self, run: Run) -> None:
        """Follow a run whose cell has ended."""
        import asyncio

        async def follow() -> None:
            while self._widget is not None and self._widget.following:
                if run.wait(0):
                    self.finish(run)
                    return
                self._widget.update()
                await asyncio.sleep(_FOLLOWED_S)

        self._task = asyncio.get_running_loop().create_task(follow())


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
    is_detached = False

    def __init__(self, write: Callable[[str], None], result: Callable[[Run, bool], None]) -> None:
        self._write = write
        self._result = result
        self._tenths = -1
        self._failures = 0
        self._notices = 0
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
        for notice in view.notices[self._notices :]:
            self._write(f"{view.name}: {notice}")
        self._notices = len(view.notices)
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
    is_detached = False

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
        return results_view(run, source) if whole else run_card(run, source, stopping=stopping)

    def show(run: Run, stopping: bool) -> None:
        from IPython.display import display

        display(rendered(run, stopping).bundle(), raw=True)

    if quiet:
        return QuietDisplay(show)
    if is_watched(shell):
        return WatchedDisplay(LineDisplay(_print, show), rendered)
    return LineDisplay(_print, show)


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a line for people where there is no widget
