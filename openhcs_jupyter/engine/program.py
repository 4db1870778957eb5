"""What a worker is given: the program of a run once, and the work of a unit each time."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import cloudpickle
import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, PlannedStep, Stage, TakenChannel, Unit
from openhcs_jupyter.engine.needed import modules_of
from openhcs_jupyter.engine.waypoints import DISK_BYTES_PER_S, KeptWaypoints, Start
from openhcs_jupyter.events import StoredFile
from openhcs_jupyter.model import Channel, Image, ResultSpec, RunRecord
from openhcs_jupyter.pipeline.chains import Chains, chains_of
from openhcs_jupyter.topology import Device


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """What all units of a run share. Travels to workers through cloudpickle, as it holds the user's functions."""

    repository: str
    run_folder: Path
    record: RunRecord
    plate_name: str
    rows: int
    columns: int
    channels: tuple[TakenChannel, ...]
    plate_channels: tuple[Channel, ...]
    size_t: int
    pixel_size_um: float | None
    """Of the plate's images; None where they differ."""
    steps: tuple[PlannedStep, ...]
    stages: tuple[Stage, ...]
    results: tuple[ResultSpec, ...]
    calls: dict[int, Chains]
    """By step index."""
    modules: tuple[str, ...]
    """Installed modules that the functions refer to; not the user's own, which may change between runs."""
    search_path: tuple[str, ...]
    """Where Python looks for modules, so that workers find the user's."""
    working_folder: str
    keep_s_per_byte: float
    """What keeping a byte between steps is reckoned to cost, in seconds of computing."""
    devices: tuple[Device, ...] = ()
    """GPUs of the run."""


def program_of(plan: ExecutionPlan, record: RunRecord, run_folder: Path) -> Program:
    """Put together the program of a plan that is bound to its pipeline and plate."""
    plate = plan.plate
    sizes = {image.layout.pixel_size_um for _, field in plate.fields() for image in field.images}
    calls = {step.index: chains_of(plan.pipeline.steps[step.index]) for step in plan.steps}
    return Program(
        repository=plan.repository,
        run_folder=run_folder,
        record=record,
        plate_name=plate.name,
        rows=plate.rows,
        columns=plate.columns,
        channels=plan.channels,
        plate_channels=plate.channels,
        size_t=plan.size_t,
        pixel_size_um=sizes.pop() if len(sizes) == 1 else None,
        steps=plan.steps,
        stages=plan.stages,
        results=plan.results,
        calls=calls,
        modules=modules_of(calls),
        search_path=tuple(sys.path),
        working_folder=str(Path.cwd()),
        keep_s_per_byte=plan.memory.workers / DISK_BYTES_PER_S,
        devices=plan.devices,
    )


class PackedProgram(msgspec.Struct, frozen=True, kw_only=True):
    """A program as it travels: only a worker that has the user's modules at hand unpacks it."""

    run_folder: Path
    modules: tuple[str, ...]
    search_path: tuple[str, ...]
    working_folder: str
    packed: bytes

    def message(self, device: Device | None) -> bytes:
        """Return what a worker process is sent first: one that computes on a GPU, or on CPUs."""
        return pickle.dumps((self.search_path, self.working_folder, device, self.packed), protocol=5)


def pack(program: Program) -> PackedProgram:
    """Make a program ready to travel."""
    return PackedProgram(
        run_folder=program.run_folder,
        modules=program.modules,
        search_path=program.search_path,
        working_folder=program.working_folder,
        packed=cloudpickle.dumps(program, protocol=5),
    )


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One field's image that a unit reads or writes about."""

    field: int
    image: Image
    position_um: tuple[float, float] | None


class Parent(msgspec.Struct, frozen=True):
    """A unit whose results are there for this one to take."""

    stage: int
    well: str | None
    field: int | None
    key: str


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One unit, with what it needs that is not in the program."""

    unit: Unit
    sources: tuple[Source, ...]
    """The fields of the unit's place."""
    parents: tuple[Parent, ...]
    key: str
    """Name of its folder in the run's store."""
    start: Start | None = None
    """What an earlier run left of the same work; None where the unit starts from its images."""
    keep: bool = False
    """Leave for later runs what is worth it."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a unit has no results."""

    message: str
    step: int | None = None
    """Index of the step."""
    traceback: str = ""
    whole_run: bool = False
    """The next unit would fail alike: the disk is full."""
    device_lost: bool = False
    """The worker's device does not answer any more; the unit itself may be well."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a unit ended."""

    unit: int
    failure: Failure | None = None
    files: tuple[StoredFile, ...] = ()
    read_s: float = 0.0
    compute_s: float = 0.0
    write_s: float = 0.0
    bytes_read: int = 0
    steps_kept: int = 0
    """Steps of its stage that an earlier run had done, so that the unit went on behind them."""
    waypoints: KeptWaypoints | None = None
    bytes_up: int = 0
    """Sent to a device since the worker's last unit, which includes what was sent ahead."""
    bytes_down: int = 0
    """Fetched from it."""
    notices: tuple[str, ...] = ()
    """What the user should know, though it is no failure."""
