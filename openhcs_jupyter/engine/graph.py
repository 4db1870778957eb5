"""Which units are ready, finished or failed, and the address of each one's results as they turn out."""

from __future__ import annotations

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, Stage, Unit
from openhcs_jupyter.pipeline.fingerprint import combine


class UnitGraph:
    """Which units are ready, finished, failed; and the address of each one's results as they turn out.

    A table or a reducer's merge takes what there is when some of its parents failed; its results then have an address
    of their own, so that they are made anew when the parents are mended. Whatever needs a failed parent's pixels is
    skipped.
    """

    def __init__(self, plan: ExecutionPlan) -> None:
        self._plan = plan
        self._open = [len(unit.parents) for unit in plan.units]
        self._children: list[list[int]] = [[] for _ in plan.units]
        for unit in plan.units:
            for parent in unit.parents:
                self._children[parent].append(unit.id)
        self._state = ["waiting"] * len(plan.units)
        self._ready: list[Unit] = [unit for unit in plan.units if not unit.parents]
        self._skipped: list[tuple[Unit, Unit]] = []
        self._fingerprints: dict[int, str] = {}
        self.left = len(plan.units)
        self.failed = 0

    @property
    def is_finished(self) -> bool:
        """Whether every unit has ended, one way or another."""
        return self.left == 0

    @property
    def finished_keys(self) -> list[tuple[Unit, str]]:
        """Units that have results, with the names of their folders."""
        return [(unit, self.key(unit)) for unit in self._plan.units if self._state[unit.id] == "done"]

    def is_ready(self, unit: Unit) -> bool:
        """Tell whether all parents of a unit have ended, and it has not."""
        return self._open[unit.id] == 0 and self._state[unit.id] == "waiting"

    def has_finished(self, unit: Unit) -> bool:
        """Tell whether a unit has results."""
        return self._state[unit.id] == "done"

    def take_ready(self) -> list[Unit]:
        """Give the units that became ready since the last call."""
        ready, self._ready = [unit for unit in self._ready if self._state[unit.id] == "waiting"], []
        return ready

    def take_skipped(self) -> list[tuple[Unit, Unit]]:
        """Give the units that cannot be done any more, each with the one that failed."""
        skipped, self._skipped = self._skipped, []
        return skipped

    def finish(self, unit: Unit) -> None:
        """Mark a unit whose results are there."""
        self._end(unit, "done")

    def fail(self, unit: Unit) -> None:
        """Mark a unit that failed by itself; what cannot be done without it is skipped."""
        self.failed += 1
        self._end(unit, "failed")

    def fingerprint(self, unit: Unit) -> str:
        """Address of a unit's results, which tells parents that failed from those that did not."""
        known = self._fingerprints.get(unit.id)
        if known is None:
            units = self._plan.units
            parents = [units[number] for number in unit.parents]
            changed = [
                self.fingerprint(parent) if self._state[parent.id] == "done" else f"without {parent.fingerprint}"
                for parent in parents
                if self._state[parent.id] != "done" or self.fingerprint(parent) != parent.fingerprint
            ]
            known = self._fingerprints[unit.id] = combine(unit.fingerprint, *changed) if changed else unit.fingerprint
        return known

    def key(self, unit: Unit) -> str:
        """Name of the folder of a unit's results; see `fingerprint`."""
        fingerprint = self.fingerprint(unit)
        if fingerprint == unit.fingerprint:
            return unit.key
        return msgspec.structs.replace(unit, fingerprint=fingerprint).key

    def _end(self, unit: Unit, state: str) -> None:
        self._state[unit.id] = state
        self.left -= 1
        for number in self._children[unit.id]:
            self._open[number] -= 1
            child = self._plan.units[number]
            if self._open[number] == 0 and self._state[number] == "waiting":
                cause = self._missing(child)
                if cause is None:
                    self._ready.append(child)
                else:
                    self._skipped.append((child, cause))
                    self._end(child, "skipped")

    def _missing(self, unit: Unit) -> Unit | None:
        """Return the parent without which a unit cannot be done, if there is one."""
        parents = [self._plan.units[number] for number in unit.parents]
        failed = [parent for parent in parents if self._state[parent.id] != "done"]
        if not failed:
            return None
        takes_what_there_is = self._takes_part(self._plan.stages[unit.stage]) and len(failed) < len(parents)
        return None if takes_what_there_is else failed[0]

    def _takes_part(self, stage: Stage) -> bool:
        if stage.kind in ("merge", "finish"):
            return True
        tables_only = all(self._plan.steps[index].kind == "table" for index in stage.steps)
        return stage.kind == "compute" and tables_only
