"""Compiles a pipeline for a plate and a machine."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from openhcs_jupyter.compiler.devices import (
    Placing,
    choose_devices,
    misfit_message,
    on_devices,
    place,
    runs_on_gpu,
    transfers,
)
from openhcs_jupyter.compiler.plan import ExecutionPlan, LeftOut, Memory, PlannedStep, Stage, TakenChannel
from openhcs_jupyter.compiler.problems import Problems
from openhcs_jupyter.compiler.resolve import resolve
from openhcs_jupyter.compiler.results import decide_results
from openhcs_jupyter.compiler.selection import Chosen, Selection, choose, hold_to_usual
from openhcs_jupyter.compiler.stages import Splitter, add_saving, finished
from openhcs_jupyter.compiler.units import UnitMaker
from openhcs_jupyter.model import Plate
from openhcs_jupyter.pipeline import Pipeline
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
    device: str = "auto",
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
    device
        ``cpu``, ``gpu`` or one GPU such as ``gpu:1``; ``auto`` takes GPUs where there are any on which the units fit.

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
    resolved = resolve(pipeline, chosen, problems)
    chosen = hold_to_usual(plate, selection, chosen, resolved.taken, problems)
    steps, results = decide_results(pipeline, resolved, problems)
    _check_sizes(pipeline, steps, chosen, problems)
    devices = choose_devices(topology, device, problems)
    steps = on_devices(pipeline, steps, bool(devices), problems)
    problems.raise_if_any()

    wells = len({well.id for well, _, _ in chosen.fields})
    splitter = Splitter(steps, {"field": len(chosen.fields), "well": wells, "plate": 1})
    if save:
        add_saving(splitter, results)
    maker = UnitMaker(plate, chosen, selection.source, steps, resolved.before)
    by_index = {step.index: step for step in steps}
    stages = []
    for draft in splitter.stages:
        own = [by_index[index] for index in draft.steps]
        moves = transfers(draft, own, resolved.before[own[0].index].channels) if draft.kind == "compute" else ()
        stages.append(finished(draft, steps, maker.make(draft), maker.ways(draft), moves))
    on_gpu = {
        stage.index: stage.kind == "compute" and runs_on_gpu([by_index[i] for i in stage.steps]) for stage in stages
    }
    placing = place(maker.units, on_gpu, devices)

    def on_cpus(other: Topology | None = None) -> ExecutionPlan:
        return compile(
            pipeline,
            plate,
            other or topology,
            selection,
            save=save,
            workers=workers,
            memory_bytes=memory_bytes,
            device="cpu",
        )

    if placing.misfit is not None:
        message = misfit_message(placing.misfit, devices, _size)
        if device == "auto":
            return _told(on_cpus(), "GPUs", f"{message}; the run computes on CPUs").bind(pipeline, plate, on_cpus)
        at = maker.hungriest(stages[placing.misfit.stage], "cupy")
        problems.add(message, "Take fewer channels, or --device auto.", pipeline.steps[at])
    memory = _memory(pipeline, stages, maker, topology, workers, memory_bytes, placing, problems)
    problems.raise_if_any()
    indices = {channel.name: c for c, channel in enumerate(plate.channels)}
    plan = ExecutionPlan(
        name=pipeline.name,
        repository=plate.repository,
        plate_id=plate.id,
        plate_name=plate.name,
        source_kind=selection.source,
        channels=tuple(
            TakenChannel(channel=plate.channels[indices[name]], index=indices[name], slices=slices)
            for name, slices in chosen.slices.items()
        ),
        size_t=chosen.size_t,
        steps=tuple(steps),
        stages=tuple(stages),
        units=placing.units,
        results=tuple(results),
        memory=memory,
        devices=placing.devices,
        left_out=chosen.left_out,
        save=save,
    )
    return plan.bind(pipeline, plate, on_cpus)


def _told(plan: ExecutionPlan, what: str, why: str) -> ExecutionPlan:
    """Add to a plan what it does not take."""
    told: ExecutionPlan = msgspec.structs.replace(plan, left_out=(*plan.left_out, LeftOut(what=what, why=why)))
    return told


def _check_sizes(pipeline: Pipeline, steps: Sequence[PlannedStep], chosen: Chosen, problems: Problems) -> None:
    """Find wells whose fields differ in size where a step takes them together as they were recorded."""
    together = None
    for step in steps:
        if step.kind != "table" and step.stack == "field":
            together = step
            break
        if step.kind == "pixels" and any(use.kind != "measure" for uses in step.chains.values() for use in uses):
            return  # what it makes of them, only running tells
    if together is None:
        return
    first: dict[str, tuple[int, tuple[int, int]]] = {}
    for well, field, image in chosen.fields:
        size = (image.layout.size_y, image.layout.size_x)
        number, other = first.setdefault(well.name, (field.number, size))
        if size != other:
            problems.add(
                f"the fields of {well.name} differ in size and cannot be taken together: field {number} has "
                f"{other[0]} x {other[1]} pixels, field {field.number} {size[0]} x {size[1]}",
                "Choose fields of one size with --fields, or leave the well out of --wells.",
                pipeline.steps[together.index],
            )
            return


def _memory(
    pipeline: Pipeline,
    stages: Sequence[Stage],
    maker: UnitMaker,
    topology: Topology,
    workers: int | None,
    memory_bytes: int | None,
    placing: Placing,
    problems: Problems,
) -> Memory:
    limit = memory_bytes or int(topology.memory_free_bytes * SHARE_OF_FREE_MEMORY)
    largest = max(maker.units, key=lambda unit: unit.peak_bytes)
    per_worker = largest.peak_bytes + (UNITS_AT_HAND - 1) * largest.read_bytes
    if per_worker > limit:
        place = f"{largest.well} field {largest.field}" if largest.field else largest.well or "the plate"
        index = maker.hungriest(stages[largest.stage])
        problems.add(
            f"the unit {place} needs {_size(per_worker)}, most of it in this step, and the run may use {_size(limit)}",
            "Take fewer channels, or give the run more memory: %openhcs config memory_gb=...",
            pipeline.steps[index],
        )
    devices = len(placing.devices)
    on_cpus = sum(unit.device == "cpu" for unit in placing.units)
    count = max(1, min(workers or topology.cores, on_cpus))
    if per_worker:
        count = max(1, min(count, limit // per_worker - devices))
    in_flight = (count + devices) * per_worker
    return Memory(limit_bytes=limit, unit_peak_bytes=largest.peak_bytes, workers=count, in_flight_bytes=in_flight)


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
