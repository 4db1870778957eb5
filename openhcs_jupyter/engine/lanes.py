"""A session of several: one for CPUs and one for each GPU; units of a GPU that is lost go to another one."""

from __future__ import annotations

import selectors
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.devices import SHARE_OF_FREE_MEMORY
from openhcs_jupyter.engine.executor import Session
from openhcs_jupyter.engine.program import Failure, Outcome, Work
from openhcs_jupyter.topology import Device

_MOST_WAITING = 64
"""Units that are taken for each lane at most, so that one with little to do does not wait for a busy one."""


class Lane(Session):
    """A session that can be waited for beside others."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a file descriptor that can be read when the session has news."""


class LanedSession(Session):
    """Hands each unit to the session of its device.

    Parameters
    ----------
    lanes
        By device: ``cpu``, and the ids of `devices`.
    devices
        The GPUs.
    """

    def __init__(self, lanes: Mapping[str, Lane], devices: Sequence[Device]) -> None:
        self._lanes = dict(lanes)
        self._devices = {device.id: device for device in devices}
        self._lost: dict[str, str] = {}
        """By id of a device that does not answer: why."""
        self._held: dict[int, tuple[str, Work]] = {}
        self._failed: list[Outcome] = []
        self._notices: list[str] = []
        self._selector = selectors.DefaultSelector()
        for name, session in self._lanes.items():
            self._selector.register(session, selectors.EVENT_READ, name)

    @property
    def room(self) -> int:
        """How many more units the idlest of them takes."""
        if len(self._held) >= _MOST_WAITING * len(self._lanes):
            return 0
        return max(session.room for session in self._lanes.values())

    @property
    def running(self) -> Sequence[int]:
        """Ids of the units that any of them computes."""
        return [unit for session in self._lanes.values() for unit in session.running]

    def submit(self, work: Work) -> None:
        """Hand a unit to its device's session."""
        lane = self._lane_of(work)
        if lane is None:
            self._failed.append(Outcome(unit=work.unit.id, failure=Failure(message=self._nowhere(work))))
            return
        self._held[work.unit.id] = (lane, work)
        self._lanes[lane].submit(work)

    def wait(self, timeout: float) -> list[Outcome]:
        """Return the outcomes of all of them."""
        if not self._failed:
            self._selector.select(timeout)
        outcomes: list[Outcome] = []
        for name, session in list(self._lanes.items()):
            for outcome in session.wait(0):
                if outcome.failure is not None and outcome.failure.device_lost:
                    self._retire(name, outcome.failure.message)
                    break
                self._held.pop(outcome.unit, None)
                outcomes.append(outcome)
        failed, self._failed = self._failed, []
        outcomes += failed
        if outcomes and self._notices:
            told = (*self._notices, *outcomes[0].notices)
            outcomes[0] = msgspec.structs.replace(outcomes[0], notices=told)
            self._notices = []
        return outcomes

    def cancel(self) -> None:
        """Stop all of them."""
        self._held.clear()
        for session in self._lanes.values():
            session.cancel()

    def close(self) -> None:
        """End all workers."""
        for session in self._lanes.values():
            session.close()
        self._selector.close()

    def _retire(self, name: str, why: str) -> None:
        """Give a lost device's units to others."""
        session = self._lanes.pop(name)
        self._selector.unregister(session)
        session.cancel()
        self._lost[name] = why
        again = [work for lane, work in self._held.values() if lane == name]
        device = self._devices[name]
        self._notices.append(
            f"{name} ({device.name}) was lost: {why}; its units go to "
            f"{', '.join(self._gpus()) or 'no other GPU, as there is none'}"
        )
        for work in again:
            del self._held[work.unit.id]
            self.submit(work)

    def _lane_of(self, work: Work) -> str | None:
        """Return the session that does a unit: its own, or of the GPU with room for it that has the least to do."""
        wanted = work.unit.device
        if wanted in self._lanes:
            return wanted
        load = [lane for lane, _ in self._held.values()]
        fitting = [
            name
            for name in self._gpus()
            if work.unit.device_bytes <= self._devices[name].memory_free_bytes * SHARE_OF_FREE_MEMORY
        ]
        return min(fitting, key=load.count, default=None)

    def _gpus(self) -> list[str]:
        return [name for name in self._lanes if name in self._devices]

    def _nowhere(self, work: Work) -> str:
        """Say why no device does a unit."""
        name = work.unit.device
        return (
            f"{name} ({self._devices[name].name}) was lost, and no other GPU has room for its units: "
            f"{self._lost.get(name, 'it is not there')}; go on with --resume when it is back, or start with "
            "--device cpu"
        )
