"""Places a run on GPUs: which functions run there, what moves between memories, and which unit goes to which device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from openhcs_jupyter.compiler.plan import FunctionUse, PlannedStep, Transfer, Unit
from openhcs_jupyter.compiler.problems import Problems, known
from openhcs_jupyter.compiler.stages import DraftStage
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline._packages import distribution
from openhcs_jupyter.pipeline.chains import BoundCall, chains_of, signature_of
from openhcs_jupyter.pipeline.contracts import Kernel, MemoryType, kernel_of
from openhcs_jupyter.pipeline.fingerprint import FingerprintError, combine, fingerprint
from openhcs_jupyter.topology import Device, Topology

SHARE_OF_FREE_MEMORY = 0.8


def choose_devices(topology: Topology, wanted: str, problems: Problems) -> tuple[Device, ...]:
    """Return the GPUs that a run may use.

    Parameters
    ----------
    topology
        Of the machine.
    wanted
        ``cpu``, ``auto``, ``gpu``, or one of them by its name, such as ``gpu:1``.
    problems
        Takes what is found amiss.
    """
    if wanted == "cpu":
        return ()
    there = topology.devices
    if wanted == "auto":
        return there
    if not there:
        problems.add(f"--device {wanted}: {topology.host} has no GPU", "Take --device auto or cpu; doctor says more.")
    elif wanted == "gpu":
        return there
    chosen = tuple(device for device in there if device.id == wanted)
    if there and not chosen:
        problems.add(f"--device {wanted}: there is no such GPU", known(wanted, [device.id for device in there]))
    return chosen


def on_devices(pipeline: Pipeline, steps: Sequence[PlannedStep], on_gpu: bool, problems: Problems) -> list[PlannedStep]:
    """Give every function the memory in which it runs: a GPU's where it has a kernel for that, if there is a GPU.

    Parameters
    ----------
    pipeline
        Holds the functions.
    steps
        Resolved.
    on_gpu
        Whether the run may use GPUs.
    problems
        Takes functions that cannot run where the run can.
    """
    placed = []
    for step in steps:
        source = pipeline.steps[step.index]
        calls = chains_of(source)

        def fault(message: str, hint: str | None = None, step: PlannedStep = step) -> None:
            problems.add(f"{step.name}: {message}", hint, pipeline.steps[step.index])

        uses = {
            key: tuple(
                _placed(use, call, on_gpu and step.kind == "pixels", fault)
                for use, call in zip(chain, calls[key], strict=True)
            )
            for key, chain in step.chains.items()
        }
        placed.append(msgspec.structs.replace(step, chains=uses))
    return placed


def _placed(use: FunctionUse, call: BoundCall, on_gpu: bool, fault: Callable[..., None]) -> FunctionUse:
    found = kernel_of(call.function, "cupy") if on_gpu else None
    if found is None:
        if call.is_reducer or kernel_of(call.function, "numpy") is not None:
            return use
        fault(f"{call.name} takes arrays of a GPU only, and this run computes on CPUs", "Give it a kernel for numpy.")
        return use
    try:
        _check_parameters(call, found, fault)
        own = fingerprint(found.function, call.params)
    except FingerprintError as error:
        fault(error.message, error.hint)
        own = ""
    version = distribution("cupy").version
    return msgspec.structs.replace(
        use, memory="cupy", need=found.need, fingerprint=combine("cupy", version, use.fingerprint, own)
    )


def _check_parameters(call: BoundCall, found: Kernel, fault: Callable[..., None]) -> None:
    """Check that a kernel takes what its function takes."""
    if found.function is call.function:
        return
    both = signature_of(call.function), signature_of(found.function)
    names = [list(one.parameters)[1:] if one else [] for one in both]
    if all(both) and set(names[0]) != set(names[1]):
        fault(
            f"{call.name} takes {', '.join(names[0]) or 'nothing'} after its stack, "
            f"and its kernel for cupy {', '.join(names[1]) or 'nothing'}",
            "A kernel has the parameters of its function.",
        )


def transfers(draft: DraftStage, steps: Sequence[PlannedStep], channels: Collection[str]) -> tuple[Transfer, ...]:
    """Tell what moves between the memories while a unit of a stage is done; functions that follow each other stay.

    Parameters
    ----------
    draft
        The stage.
    steps
        Its steps, in order.
    channels
        Those that it begins with.
    """
    where: dict[str, set[MemoryType]] = {name: {"numpy"} for name in channels}
    moves: list[Transfer] = []

    def move(step: PlannedStep, names: Sequence[str], to: MemoryType, why: str) -> None:
        moved = tuple(name for name in names if to not in where[name])
        for name in moved:
            where[name].add(to)
        if moved:
            moves.append(Transfer(step=step.index, to=to, channels=moved, why=why))

    for step in steps:
        if step.kind == "table":
            continue
        if step.kind == "reducer":
            move(step, step.channels, "numpy", step.name)
            continue
        for key, chain in step.chains.items():
            names = [name for name in step.channels if key == name or key not in step.channels]
            for use in chain:
                move(step, names, use.memory, use.name)
                if use.kind != "measure":
                    where.update({name: {use.memory} for name in names})
            if chain[-1].memory == "cupy" and any(output.kind in ("labels", "image") for output in step.outputs):
                moves.append(Transfer(step=step.index, to="numpy", channels=tuple(names), why="its outputs"))
        for name in step.channels_after:
            if name not in where:  # channels that were joined to a new one
                where[name] = {step.chains[next(iter(step.chains))][-1].memory}
        if step.keep_as is not None:
            kept = [n for n in step.channels_after if n in step.channels] or list(step.channels_after[-1:])
            move(step, kept, "numpy", "kept")
    if draft.carries and steps:
        last = steps[-1]
        move(last, [name for name in last.channels_after if name in where], "numpy", "carried on")
    return tuple(moves)


class Placing(NamedTuple):
    """Where the units of a run go."""

    units: tuple[Unit, ...]
    devices: tuple[Device, ...]
    """Those that have units."""
    misfit: Unit | None
    """One that fits on no device, if there is any."""


def place(units: Sequence[Unit], on_gpu: Mapping[int, bool], devices: Sequence[Device]) -> Placing:
    """Give each unit that runs on a GPU the one where it fits and that has the least to do.

    Parameters
    ----------
    units
        In order, with the memory that each takes on a device.
    on_gpu
        By stage: whether its units run on GPUs.
    devices
        The GPUs.
    """
    load = dict.fromkeys((device.id for device in devices), 0.0)
    room = {device.id: device.memory_free_bytes * SHARE_OF_FREE_MEMORY for device in devices}
    placed: list[Unit] = []
    for unit in units:
        if not on_gpu[unit.stage]:
            placed.append(unit)
            continue
        fitting = [device for device in devices if unit.device_bytes <= room[device.id]]
        if not fitting:
            return Placing(tuple(units), (), unit)
        best = min(fitting, key=lambda device: load[device.id])
        load[best.id] += max(1, unit.device_bytes) / best.share
        placed.append(msgspec.structs.replace(unit, device=best.id))
    return Placing(tuple(placed), tuple(device for device in devices if load[device.id]), None)


def runs_on_gpu(steps: Sequence[PlannedStep]) -> bool:
    """Tell whether any function of some steps runs on a GPU."""
    return any(use.memory == "cupy" for use in _uses(steps))


def _uses(steps: Sequence[PlannedStep]) -> Iterator[FunctionUse]:
    return (use for step in steps for chain in step.chains.values() for use in chain)


def misfit_message(unit: Unit, devices: Sequence[Device], size: Callable[[int], str]) -> str:
    """Say which unit fits on no device."""
    largest = max(devices, key=lambda device: device.memory_free_bytes)
    where = f"{unit.well or 'the plate'}{f' field {unit.field}' if unit.field is not None else ''}"
    room = int(largest.memory_free_bytes * SHARE_OF_FREE_MEMORY)
    return (
        f"the unit {where} needs {size(unit.device_bytes)} on a GPU, and the run may use {size(room)} of the freest, "
        f"{largest.id} ({largest.name})"
    )
