"""Cells and files whose runs are jobs of an execution server: sent, followed like runs of one's own, or left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from openhcs_jupyter.door import CellError, RunOptions, Source
from openhcs_jupyter.errors import RunError, ServerError, UsageError
from openhcs_jupyter.magics.errors import RunInterrupted
from openhcs_jupyter.magics.follow import Pause, raise_if_failed, until_stopped
from openhcs_jupyter.magics.variables import SELECTED
from openhcs_jupyter.magics.views.jobs import job_line, state_view
from openhcs_jupyter.magics.views.render import Rendered, card, code, escape
from openhcs_jupyter.widgets.session import session

if TYPE_CHECKING:
    from openhcs_jupyter.client import RemoteOrchestrator, RemoteRun
    from openhcs_jupyter.magics.display import Display

_TICK_S = 0.1
_STOPPED_S = 3.0


class StateDisplay(Protocol):
    """Shows how a job stands that is not compiled yet."""

    def show(self, rendered: Rendered) -> None:
        """Show it, in place of what was shown before."""

    def begin(self, rendered: Rendered) -> None:
        """Make room for the run: only this stays."""


class LineStates:
    """States as lines.

    Parameters
    ----------
    write
        Takes one line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def show(self, rendered: Rendered) -> None:
        """Write it."""
        self._write(rendered.text)

    def begin(self, rendered: Rendered) -> None:
        """Write nothing: the run tells of itself."""


def submit(
    server: RemoteOrchestrator, source: Source, options: RunOptions, namespace: Mapping[str, Any]
) -> list[RemoteRun]:
    """Hand in the text of a cell or file as jobs: one for each plate that the options name.

    Parameters
    ----------
    server
        Where to.
    source
        What the user wrote; it is not run here.
    options
        The plates, what of them, and how.
    namespace
        As the cells before have left it.

    Raises
    ------
    CompileError
        If it takes from other cells what cannot be sent.
    UsageError
        If the options do not fit a job.
    ServerError
        If the server cannot be reached, or refuses.
    """
    from openhcs_jupyter.door.payload import code_of_text
    from openhcs_jupyter.server.model import new_key

    try:
        pipeline = code_of_text(source, namespace)
    except SyntaxError as error:
        raise CellError(error) from None
    options, viewers = _for_jobs(server, options)
    plates: list[str | None] = [*_plates(options.plate)] or [None]
    key = new_key()
    priority = options.priority
    options = msgspec.structs.replace(
        options, server=None, priority=0, background=False, quiet=False, view=bool(viewers)
    )
    return [
        server.run_of(
            server.submit_code(
                pipeline,
                msgspec.structs.replace(options, plate=plate),
                viewers=viewers,
                priority=priority,
                key=f"{key}-{number}" if len(plates) > 1 else key,
            )
        )
        for number, plate in enumerate(plates)
    ]


def source_of(run: RemoteRun, source: Source | None = None) -> Source:
    """Return what defined a job, under the name by which the server's tracebacks know it."""
    if source is None:
        source = Source(run.record.source_name, run.record.source, "")
    return source._replace(filename=f"<{run.id}>")


def submitted_view(runs: Sequence[RemoteRun], command: str = "%openhcs") -> Rendered:
    """Say which jobs were made, and how they are followed."""
    lines = [f"{run.name}: job {run.id} on {run.server}" for run in runs]
    how = f"{command} attach {runs[0].id} --server {runs[0].server}"
    text = "\n".join([*lines, f"  Follow it: {how}"])
    return Rendered(text, card("<br>".join(map(escape, lines)), [code(how)]))


async def follow_jobs(
    runs: Sequence[RemoteRun],
    display_of: Callable[[RemoteRun], Display],
    states: Callable[[], StateDisplay],
    pause: Pause,
    *,
    stop_run: bool = True,
) -> None:
    """Show jobs until all have ended, or the user detaches their displays.

    Parameters
    ----------
    runs
        The jobs.
    display_of
        Makes the display of one that is compiled.
    states
        Makes what shows how one stands that is not.
    pause
        How to wait.
    stop_run
        Whether an interrupt stops them, rather than only the waiting.

    Raises
    ------
    RunError
        If one failed; of several, tells how many did.
    RunInterrupted
        If the user interrupted, or one was cancelled meanwhile.
    """
    shown = [_Shown(run, display_of, states()) for run in runs]
    try:
        while sum(one.update() for one in shown) < len(shown):
            await pause(_TICK_S)
    except (asyncio.CancelledError, KeyboardInterrupt):
        raise RunInterrupted(await _stop(shown, pause) if stop_run else _left(runs)) from None
    errors: list[RunError] = []
    for one in shown:
        try:
            one.check()
        except RunError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        told = "\n".join(f"  {error.message}" for error in errors)
        raise RunError(f"{len(errors)} of {len(runs)} jobs failed:\n{told}", errors[0].hint)


class _Shown:
    """One job on the screen."""

    def __init__(self, run: RemoteRun, display_of: Callable[[RemoteRun], Display], states: StateDisplay) -> None:
        self.run = run
        self._display_of = display_of
        self._states = states
        self._told = ""
        self.display: Display | None = None
        self._ended = False

    def update(self) -> bool:
        """Show what is new; tells whether there is nothing more to come."""
        if self._ended:
            return True
        ended = self.run.wait(0)
        if self.display is None:
            if not self.run.is_planned:
                self._say_state()
                self._ended = ended
                return ended
            if self._told:
                self._states.begin(job_line(self.run))
            self.display = self._display_of(self.run)
        if ended:
            self.display.finish(self.run)
            self._ended = True
        else:
            self.display.update(self.run)
        return ended or self.display.is_detached

    def check(self) -> None:
        """Raise what an ended job has to say."""
        if self.display is not None and self.display.is_detached:
            return
        if self.run.is_planned:
            raise_if_failed(self.run, told=self.display is not None and self.display.tells_failures)
            return
        if self.run.state == "cancelled":
            raise RunInterrupted(f"Job {self.run.id} was cancelled.")
        raise_if_not_compiled(self.run)

    def _say_state(self) -> None:
        said = state_view(self.run, self.run.known_job())
        if said.text != self._told:
            self._told = said.text
            self._states.show(said)


def raise_if_not_compiled(run: RemoteRun) -> None:
    """Raise why a job ended before it ran.

    Raises
    ------
    CompileError
        If its pipeline does not fit; holds every problem.
    RunError
        If something else kept it from running.
    """
    if run.compile_error is not None:
        raise run.compile_error
    raise RunError(run.summary(), f"Let it go on: {run.resumed_by}" if run.state != "failed" else None)


async def _stop(shown: Sequence[_Shown], pause: Pause) -> str:
    told = []
    for one in shown:
        try:
            one.run.cancel()
        except ServerError:
            told.append(f"Interrupted: job {one.run.id} goes on, as {one.run.server} cannot be reached.")
            continue
        await until_stopped(one.run, pause, _STOPPED_S)
        if one.display is not None:
            one.display.finish(one.run, stopping=True)
        told.append(f"Interrupted: job {one.run.id} is cancelled; {one.run.resumed_by} goes on.")
    return "\n".join(told)


def _left(runs: Sequence[RemoteRun]) -> str:
    return "\n".join(f"Interrupted: job {run.id} goes on; %openhcs attach {run.id} follows it again." for run in runs)


def _plates(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _for_jobs(server: RemoteOrchestrator, options: RunOptions) -> tuple[RunOptions, tuple[str, ...]]:
    """Fill in what the server cannot know: the chosen plate, the selected wells, the listening viewer."""
    here = session.repository
    same = here is not None and here.uri == server.repository
    if options.plate is None and session.plate is not None and same:
        options = msgspec.structs.replace(options, plate=str(session.plate))
    if options.wells == SELECTED:
        plates = _plates(options.plate)
        if not same or here is None or len(plates) != 1:
            raise UsageError(
                "--wells selected: the plate view shows a plate of another repository than the server's",
                "Name the wells, or connect to the server's repository and name one plate.",
            )
        plate = here.plate(int(plates[0]) if plates[0].isdecimal() else plates[0])
        options = msgspec.structs.replace(options, wells=",".join(session.selected(plate)))
    return options, _viewers() if options.view and not options.dry_run else ()


def viewed(run: RemoteRun, viewer: str | None) -> Rendered:
    """Show a job in a listening viewer, or say how others come to see it.

    Parameters
    ----------
    run
        The job's, of any state.
    viewer
        Line of the viewer; None is the one of the settings, if they name one.

    Raises
    ------
    StreamError
        If that is no such line, or the viewer is not known yet.
    ServerError
        If its run was removed, or the server cannot be reached.
    """
    from openhcs_jupyter.config import load_settings
    from openhcs_jupyter.streaming.keys import read_invitation
    from openhcs_jupyter.streaming.known import viewer_line

    settings = load_settings()
    where = viewer or settings.viewer_host
    line = viewer_line(where, settings.viewer_port) if where else ""
    file = run.view(line)
    when = "" if run.is_planned else " once it is compiled"
    if line:
        invitation = read_invitation(line)
        title = f"{run.name} is shown in the viewer at {invitation.host}:{invitation.port}{when}."
        body = "Nothing there? Is it open, and do the firewalls let the server reach it?"
        return Rendered(f"{title}\n  {body}", card(escape(title), [escape(body)]))
    title = f"{run.name} can be viewed{when}, from a machine that reaches the server by SSH:"
    body = f"openhcs-jupyter viewer {file}"
    return Rendered(f"{title}\n  {body}", card(escape(title), [code(body)]))


def _viewers() -> tuple[str, ...]:
    from openhcs_jupyter.config import load_settings
    from openhcs_jupyter.streaming.known import known_viewer

    settings = load_settings()
    if not settings.viewer_host:
        raise UsageError(
            "--view shows a job in a viewer that listens, and none is named",
            "Start one with openhcs-jupyter viewer --bind, and name it: %openhcs config viewer_host HOST.",
        )
    return (known_viewer(settings.viewer_host, settings.viewer_port).line(),)
