"""Compiles a pipeline for a plate and a machine."""

from __future__ import annotations

import sys

from openhcs_jupyter.compiler.plan import ExecutionPlan, Memory, TakenChannel, Unit
from openhcs_jupyter.compiler.problems import Problems
from openhcs_jupyter.compiler.resolve import resolve
from openhcs_jupyter.compiler.results import decide_results
from openhcs_jupyter.compiler.selection import Chosen, Selection, channel_names, choose
from openhcs_jupyter.compiler.stages import Splitter, add_saving, finished
from openhcs_jupyter.compiler.units import UnitMaker
from openhcs_jupyter.model import Plate
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline.fingerprint import combine
from openhcs_jupyter.topology import Topology

SHARE_OF_FREE_MEMORY = 0.8
UNITS_AT_HAND = 2
"""Units that a worker holds at a time: one that is computed, and the next, being read, or the last, being written."""


def compile(
    pipeline: Pipeline,
    plate: Plate,
    topology: Topology,
    selection: Selection | None = None,
    *,
    save: bool = False,
    workers: int | None = None,
    memory_bytes: int | None = None,
) -> ExecutionPlan:
    """Compile a pipeline.

    Parameters
    ----------
    pipeline
        What is to be done.
    plate
        To what.
    topology
        On which machine.
    selection
        Which wells, fields and channels; all of them if left out.
    save
        Write the results into the repository.
    workers
        Worker processes; one for each core if left out.
    memory_bytes
        Memory that the run may use; 80 % of what is free if left out.

    Returns
    -------
    ExecutionPlan
        Bound to `pipeline` and `plate`, ready to run.

    Raises
    ------
    CompileError
        Holds every problem that was found, each with its line.
    """
    selection = selection or Selection()
    problems = Problems(pipeline.source_name)
    chosen = choose(plate, selection, problems)
    channels = channel_names(plate, chosen)
    absent = _absent(plate, selection, chosen)
    slices = {plate.channels[c].name: z for c, z in chosen.slices.items()}
    steps = resolve(pipeline, channels, slices, absent, problems)
    problems.raise_if_any()
    steps, results = decide_results(pipeline, steps, problems)
    problems.raise_if_any()

    wells = len({well.name for well, _, _ in chosen.fields})
    splitter = Splitter(steps, {"field": len(chosen.fields), "well": wells, "plate": 1})
    if save:
        add_saving(splitter, results)
    identity = combine(selection.source, *channels, f"python {sys.version_info[0]}.{sys.version_info[1]}")
    maker = UnitMaker(plate, chosen, {step.index: step for step in steps}, identity)
    carrying = {draft.starts_from for draft in splitter.stages}
    stages = tuple(finished(draft, steps, maker.make(draft), draft.index in carrying) for draft in splitter.stages)
    memory = _memory(maker.units, topology, workers, memory_bytes, problems)
    problems.raise_if_any()
    plan = ExecutionPlan(
        name=pipeline.name,
        repository=plate.repository,
        plate_id=plate.id,
        plate_name=plate.name,
        source_kind=selection.source,
        channels=tuple(
            TakenChannel(channel=plate.channels[c], index=c, slices=chosen.slices[c]) for c in chosen.channels
        ),
        size_t=chosen.size_t,
        steps=tuple(steps),
        stages=stages,
        units=tuple(maker.units),
        results=tuple(results),
        memory=memory,
        devices=("cpu",),
        left_out=chosen.left_out,
        save=save,
    )
    return plan.bind(pipeline, plate)


def _absent(plate: Plate, selection: Selection, chosen: Chosen) -> dict[str, str]:
    absent = {}
    for c, channel in enumerate(plate.channels):
        if c not in chosen.channels:
            asked = selection.channels is None or channel.name in selection.channels
            no_planes = f"it has no plane in the {selection.source} images"
            absent[channel.name] = no_planes if asked else "--channels does not name it"
    return absent


def _memory(
    units: list[Unit], topology: Topology, workers: int | None, memory_bytes: int | None, problems: Problems
) -> Memory:
    limit = memory_bytes or int(topology.memory_free_bytes * SHARE_OF_FREE_MEMORY)
    largest = max(units, key=lambda unit: unit.peak_bytes, default=None)
    peak = largest.peak_bytes if largest else 0
    per_worker = peak + (UNITS_AT_HAND - 1) * (largest.read_bytes if largest else 0)
    if largest and per_worker > limit:
        place = f"{largest.well} field {largest.field}" if largest.field else largest.well or "the plate"
        problems.add(
            f"the unit {place} needs {per_worker / 1e9:.1f} GB, and the run may use {limit / 1e9:.1f} GB",
            "Take fewer channels, or give the run more memory: %openhcs config memory_gb=...",
        )
    count = max(1, min(workers or topology.cores, len(units) or 1))
    if per_worker:
        count = max(1, min(count, limit // per_worker))
    return Memory(limit_bytes=limit, unit_peak_bytes=peak, workers=count, in_flight_bytes=count * per_worker)
