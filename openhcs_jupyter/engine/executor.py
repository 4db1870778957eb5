"""The contract of an executor: does units somewhere, and tells how each ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from openhcs_jupyter.closing import Closing
from openhcs_jupyter.engine.program import Outcome, Program, Work
from openhcs_jupyter.topology import Device


class Session(Closing):
    """One run's use of an executor; a context manager that ends its workers.

    Every unit that was submitted has exactly one outcome, unless the session is cancelled. An executor may try a unit
    again whose worker died, and never one whose function failed.
    """

    @property
    @abstractmethod
    def room(self) -> int:
        """How many more units it takes now; what it holds beyond that would only wait in memory."""

    @property
    @abstractmethod
    def running(self) -> Sequence[int]:
        """Ids of the units that are being computed."""

    @abstractmethod
    def submit(self, work: Work) -> None:
        """Take one unit, whose parents' results are in the run's store."""

    @abstractmethod
    def wait(self, timeout: float) -> list[Outcome]:
        """Return the outcomes that came since the last call; waits for one up to `timeout` seconds."""

    @abstractmethod
    def cancel(self) -> None:
        """Stop everything at once; units that were not finished leave nothing behind."""

    @abstractmethod
    def close(self) -> None:
        """End the workers."""


class Executor(ABC):
    """Opens sessions."""

    @property
    def where(self) -> str:
        """Where units are done, as the summary of a run says it; empty for the machine of the conductor."""
        return ""

    def prepare(self, timeout: float) -> bool:  # noqa: ARG002 - for those that take time
        """Get ready for a session and tell whether it is; waits up to `timeout` seconds.

        A conductor calls it until it is ready, so that a run can be cancelled meanwhile.
        """
        return True

    def lacks(self, devices: Sequence[Device]) -> str | None:
        """Say why it cannot use the GPUs of a plan, or None if it can; then the plan is made for CPUs instead."""
        return "this way of running computes on CPUs" if devices else None

    @abstractmethod
    def open(self, program: Program, *, workers: int, unit_timeout_s: float) -> Session:
        """Begin a session.

        Parameters
        ----------
        program
            What all units of the run share.
        workers
            Processes that compute at a time.
        unit_timeout_s
            A unit that computes longer is stopped and has failed; 0 waits for ever.
        """

    def close(self) -> None:  # noqa: B027 - for those that hold something between sessions
        """Let go of what `prepare` made; a conductor calls it in any case when its run ends."""
