"""What tests of the engine share: a plate in a repository, runs on it, and waiting for what happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from openhcs_jupyter.compiler import ExecutionPlan, Selection, compile
from openhcs_jupyter.engine import Executor, Run, run
from openhcs_jupyter.events import AnyEvent, RunStarted, UnitDone
from openhcs_jupyter.model import Plate
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.repository import Repository
from openhcs_jupyter.topology import Topology, discover
from tests.plates import MadePlate

T = TypeVar("T")
LONGEST_S = 60.0
_topology: list[Topology] = []


def topology() -> Topology:
    """Look at the machine once."""
    if not _topology:
        _topology.append(discover())
    return _topology[0]


def until(condition: Callable[[], T | None], what: str, longest_s: float = LONGEST_S) -> T:
    """Wait until a condition gives something true, and return that."""
    end = time.monotonic() + longest_s
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.005)
    raise AssertionError(f"waited in vain for {what}")


class Bench(NamedTuple):
    """A plate in a repository, and runs on it."""

    repository: Repository
    made: MadePlate
    plate: Plate
    folder: Path
    """For files of the test."""

    def compile(
        self,
        *steps: Step,
        name: str = "run",
        selection: Selection | None = None,
        workers: int = 2,
        save: bool = False,
    ) -> ExecutionPlan:
        """Compile steps for the plate."""
        return compile(Pipeline(steps, name), self.plate, topology(), selection, save=save, workers=workers)

    def start(
        self, *steps: Step, executor: Executor | None = None, run_options: dict[str, Any] | None = None, **how: Any
    ) -> Run:
        """Compile steps and start their run; `run_options` go to `run`, the others to `compile`."""
        return run(self.compile(*steps, **how), executor, **(run_options or {}))

    def run(self, *steps: Step, **how: Any) -> Run:
        """Run steps to their end, which must come."""
        started = self.start(*steps, **how)
        assert started.wait(LONGEST_S), "the run does not end"
        return started

    def done(self, *steps: Step, **how: Any) -> Run:
        """Run steps to their end, which must be good."""
        return self.run(*steps, **how).result()

    def pixels(self, well: str, field: int, c: int) -> NDArray[Any]:
        """Return what the plate's files hold of a field and channel, ``(Z, Y, X)``."""
        return np.stack([self.made.plane(well, field, c, z) for z in range(self.made.z)])

    def places(self) -> Iterator[tuple[str, int]]:
        """Iterate over wells and fields in plate order."""
        for well in self.made.wells:
            for field in range(1, self.made.fields + 1):
                yield well, field


def journal(started: Run) -> list[AnyEvent]:
    """Return the events of the latest start of a run."""
    events = list(started.events(follow=False))
    first = max(i for i, event in enumerate(events) if isinstance(event, RunStarted))
    return events[first:]


def fresh(started: Run) -> set[tuple[str | None, int | None, int]]:
    """Name the units that the latest start of a run has done itself: well, field, stage."""
    units = started.plan.units
    done = [event for event in journal(started) if isinstance(event, UnitDone) and not event.reused]
    return {(units[event.unit].well, units[event.unit].field, units[event.unit].stage) for event in done}


def contents(started: Run) -> dict[str, bytes]:
    """Read every file of a run's units, by its path."""
    place = started.folder / "units"
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def descendants(pid: int) -> list[int]:
    """List the processes below a process."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def lives(pid: int) -> bool:
    """Tell whether a process is there and not a zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def ended(pids: Sequence[int]) -> Callable[[], bool]:
    """Return a condition: none of the processes lives."""
    return lambda: not any(map(lives, pids))


def lines(path: Path) -> list[str]:
    """Read the lines of a file that may not be there yet."""
    return path.read_text().splitlines() if path.exists() else []
