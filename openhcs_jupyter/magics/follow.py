"""Waits for a run without blocking the kernel, and stops it when the user interrupts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from openhcs_jupyter.errors import RunError
from openhcs_jupyter.magics.errors import RunInterrupted, UnitsError

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.magics.display import Display

# An interrupt reaches a waiting coroutine only when the event loop wakes, so waiting is done in short ticks.
_TICK_S = 0.1
_STOPPING_TICK_S = 0.02
_STOPPING_S = 0.3
_ASKED_S = 2.0

Pause: TypeAlias = Callable[[float], Awaitable[None]]
T = TypeVar("T")


async def follow(run: Run, display: Display, pause: Pause, *, stop_run: bool = True) -> None:
    """Show a run until it ends, or until the user detaches its display.

    Parameters
    ----------
    run
        What is followed.
    display
        Where it is shown.
    pause
        How to wait: `asyncio.sleep`, or `blocking` where no event loop runs.
    stop_run
        Whether an interrupt stops the run, rather than only the waiting.

    Raises
    ------
    RunError
        If the run failed.
    RunInterrupted
        If the user interrupted, or the run was cancelled meanwhile.
    """
    try:
        display.update(run)
        while not run.wait(0):
            await pause(_TICK_S)
            display.update(run)
            if display.is_detached:
                return
    except (asyncio.CancelledError, KeyboardInterrupt):
        if stop_run:
            run.cancel()
            await until_stopped(run, pause)
        display.finish(run, stopping=stop_run)
        raise RunInterrupted(_interrupted(run, stop_run)) from None
    display.finish(run)
    raise_if_failed(run, told=display.tells_failures)


def raise_if_failed(run: Run, *, told: bool) -> None:
    """Raise what an ended run has to say.

    Parameters
    ----------
    run
        That has ended.
    told
        Its failures are on the screen already.

    Raises
    ------
    RunError
        If it failed.
    RunInterrupted
        If it was stopped before its end.
    """
    if run.status in ("cancelled", "interrupted"):
        raise RunInterrupted(_interrupted(run, stopped=True))
    if run.status != "failed":
        return
    failures = run.failures
    if failures:
        total = sum(stage.total for stage in run.progress.stages)
        message = f"{len(failures)} of {total} units failed in run {run.name!r}"
        raise UnitsError(message, _go_on(run), failures, told=told)
    raise RunError(f"Run {run.name!r} failed: {run.message}", _go_on(run))


def run_blocking(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits with `blocking` only, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        value: T = stop.value
        return value
    coroutine.close()
    raise RuntimeError("a coroutine that must not wait has waited")


async def blocking(seconds: float) -> None:
    """Wait as a `Pause` does, blocking the thread."""
    time.sleep(seconds)  # noqa: ASYNC251 - nothing else is to be done meanwhile


async def cancel(run: Run, pause: Pause) -> None:
    """Stop a run, whichever process conducts it, and wait a moment for its end.

    Raises
    ------
    RunError
        If another process conducts it and cannot be asked.
    """
    run.cancel()
    await until_stopped(run, pause, _ASKED_S)


async def until_stopped(run: Run, pause: Pause, longest_s: float = _STOPPING_S) -> None:
    """Wait a moment for a run that was told to stop."""
    deadline = time.monotonic() + longest_s
    while not run.wait(0) and time.monotonic() < deadline:
        await pause(_STOPPING_TICK_S)


def _go_on(run: Run) -> str:
    return f"Finished units are kept: mend the cause, then go on with {run.resumed_by}."


def _interrupted(run: Run, stopped: bool) -> str:
    if not stopped:
        return f"Interrupted: run {run.name} goes on; %openhcs attach {run.name} follows it again."
    done = sum(stage.done for stage in run.progress.stages)
    total = sum(stage.total for stage in run.progress.stages)
    return f"Interrupted: run {run.name} stopped after {done} of {total} units; {run.resumed_by} goes on."
