"""Finds what of a run is there already: results, in its own folder or made by an earlier run, and waypoints."""

from __future__ import annotations

from collections.abc import Mapping

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.cache import ResultCache
from openhcs_jupyter.engine.graph import UnitGraph
from openhcs_jupyter.engine.store import RunFolder, stored_files
from openhcs_jupyter.engine.waypoints import Start
from openhcs_jupyter.events import StoredFile
from openhcs_jupyter.pipeline.fingerprint import combine

Kept = list[tuple[Unit, tuple[StoredFile, ...]]]


def find_kept(
    plan: ExecutionPlan,
    graph: UnitGraph,
    folder: RunFolder,
    known: Mapping[str, tuple[StoredFile, ...]],
    cache: ResultCache | None,
) -> Kept:
    """Find the units whose results are there, and mark them finished; remove results that are damaged.

    Parameters
    ----------
    plan, graph, folder
        Of the run.
    known
        Files that the run's journal has of its units, by the name of their folder.
    cache
        Results of earlier runs; None if every unit is to be done anew.

    Returns
    -------
    list of (Unit, files)
        In the plan's order.
    """
    made = {} if cache is None else cache.find(unit.fingerprint for unit in plan.units)
    there = {path.name for path in folder.units.iterdir()}
    kept: Kept = []
    for unit in plan.units:
        # Of a unit whose parents are to be done, the address that it has if they are done well.
        ready = graph.is_ready(unit)
        key = graph.key(unit) if ready else unit.key
        files = known.get(key)
        stored: tuple[StoredFile, ...] | None = None
        if key in there and (cache is None or not folder.holds(key, files)):
            folder.remove(key)
        elif key in there:
            stored = stored_files(folder.units / key) if files is None else files
        if stored is None and cache is not None and plan.stages[unit.stage].kind != "save":
            found = made.get(graph.fingerprint(unit)) if ready else None
            stored = None if found is None else cache.take(found, folder, key)
        if stored is not None and ready:
            kept.append((unit, stored))
            graph.finish(unit)
    return kept


def find_starts(plan: ExecutionPlan, graph: UnitGraph, cache: ResultCache) -> dict[int, Start]:
    """Find for each unit that is to be done the last waypoint from which it can go on, by the unit's id."""
    wanted: dict[str, tuple[Unit, str]] = {}
    for unit in plan.units:
        if unit.root and not graph.has_finished(unit):
            for way in plan.stages[unit.stage].ways:
                wanted[waypoint_address(way, unit)] = unit, way
    there = cache.find_waypoints(wanted)
    # Later ways of a unit come later, and take the place of earlier ones.
    return {unit.id: Start(there[address], way) for address, (unit, way) in wanted.items() if address in there}


def waypoint_address(way: str, unit: Unit) -> str:
    """Address of what a unit has when its work is done up to the end of a way."""
    return combine(way, unit.root)
