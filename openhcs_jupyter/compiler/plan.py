"""The execution plan: everything that is known of a run before a pixel is read, as a plain value."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import RECORDED, Channel, Component, PixelGrid, Plate, ResultSpec, Scope, common_grid
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.pipeline.chains import ALL
from openhcs_jupyter.pipeline.contracts import FunctionKind, MemoryType
from openhcs_jupyter.pipeline.outputs import OutputKind
from openhcs_jupyter.topology import Device, Topology

PLAN_VERSION = 1

DECODING = threading.Lock()
"""Held while a plan, or what lies beside it, is read: two threads that make msgspec know a type at once crash it."""


class FunctionUse(msgspec.Struct, frozen=True, kw_only=True):
    """One function of a step's chain, with its parameters."""

    name: str
    module: str
    kind: FunctionKind | None
    """None: an undecorated function, known to be image or measure only when it returns."""
    params: dict[str, Any]
    """What can be said in JSON as it is; anything else as its short description."""
    fingerprint: str
    """Of its code and parameters."""
    takes_context: bool
    takes: tuple[str, ...]
    """Names of the outputs of earlier steps that it is handed, by keyword."""
    need: float
    memory: MemoryType = "numpy"
    """Of the arrays that it is given: the machine's, or a GPU's, where a kernel does its work."""


class PlannedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One named output of a step."""

    name: str
    kind: OutputKind
    by_channel: bool
    """Made once for each channel, rather than once for all."""


class PlannedInput(msgspec.Struct, frozen=True, kw_only=True):
    """One output of an earlier step, handed to a step's function."""

    keyword: str
    name: str
    kind: OutputKind
    step: int
    """Index of the step that makes it."""
    by_channel: bool


class PlannedStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step, resolved against the plate."""

    index: int
    name: str
    line: int
    kind: Literal["pixels", "table", "reducer"]
    stack: Component
    chains: dict[str, tuple[FunctionUse, ...]]
    """By channel; under the key ``*`` the chain of a step that takes all its channels alike or together."""
    channels: tuple[str, ...]
    """Channels that the step takes, in plate order."""
    channels_after: tuple[str, ...]
    """Channels of the image after the step, of those that some step takes."""
    inputs: tuple[PlannedInput, ...]
    outputs: tuple[PlannedOutput, ...]
    keep_as: str | None
    """The name of its images among the results; None where they are not kept."""
    scope: Scope
    """The finest unit that can do it."""
    grids: Mapping[str, tuple[PixelGrid | None, ...]] = {}
    """By channel, of those whose pixels are not the recorded ones: how they lie over them before each function of the
    chain, and after the last; None: not known. Of a step that takes tables, under ``*``, those they were made from."""


def made_channels(step: PlannedStep) -> tuple[str, ...]:
    """Name the channels of the images that a step makes: those it takes, or the one into which it joins them."""
    taken = tuple(name for name in step.channels_after if name in step.channels)
    return taken or step.channels_after[-1:]


def grid_of(step: PlannedStep, channels: Sequence[str], position: int = -1) -> PixelGrid | None:
    """Return how the pixels of channels lie before a function of a step's chain, or after the last; None: not known."""
    known = (step.grids.get(name) for name in channels or (ALL,))
    return common_grid(grids[position] if grids else RECORDED for grids in known)


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Stacks that move between the memory of the machine and that of a GPU."""

    step: int
    """Index of the step at which they move."""
    to: MemoryType
    channels: tuple[str, ...]
    """Whose stacks move, one after the other."""
    why: str
    """The function that takes them there, or what becomes of them."""


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Steps that units do from end to end without waiting for another."""

    index: int
    kind: Literal["compute", "merge", "finish", "save"]
    """Compute steps; merge a reducer's states, by sixteens; finish a reducer; write results into the repository."""
    name: str
    scope: Scope
    steps: tuple[int, ...]
    starts_from: int | None
    """Index of the stage whose images this one goes on with; None where it reads the source."""
    carries: bool
    """Its units keep their images for a stage that goes on with them."""
    units: int
    ways: tuple[str, ...] = ()
    """Of a stage that computes on images: identity of its work up to each of its steps, that step included."""
    transfers: tuple[Transfer, ...] = ()
    """In the order in which a unit makes them; between them functions leave their images where they are."""


class Unit(msgspec.Struct, frozen=True, array_like=True):
    """The smallest piece of work that is done whole or not at all."""

    id: int
    stage: int
    well: str | None
    field: int | None
    images: tuple[int, ...]
    """Ids of the source images that it reads."""
    parents: tuple[int, ...]
    """Units whose results it needs, in the order in which it takes them."""
    fingerprint: str
    """Address of its results: of code, parameters, versions, parents and inputs."""
    read_bytes: int
    peak_bytes: int
    """Memory that it is expected to use at most."""
    device: str = "cpu"
    """``cpu``, or the id of one of the plan's devices."""
    root: str = ""
    """Identity of what it begins with: its place, images and parents; empty where it takes no images."""
    device_bytes: int = 0
    """Memory of a GPU that it is expected to use at most, with what is sent ahead."""

    @property
    def key(self) -> str:
        """Name of the unit's folder in the run's store; tells where it belongs."""
        place = self.well or "plate"
        field = f"_f{self.field}" if self.field is not None else ""
        return f"{self.stage}_{place}{field}_{self.fingerprint[:16]}"


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """How the run keeps within the machine."""

    limit_bytes: int
    """What the run may use."""
    unit_peak_bytes: int
    """Of the largest unit."""
    workers: int
    in_flight_bytes: int
    """Expected of all units that are worked on at a time, read-ahead and write-behind included."""


class TakenChannel(msgspec.Struct, frozen=True, kw_only=True):
    """One channel that a run takes, with the planes that every field has of it."""

    channel: Channel
    index: int
    """Its index c in the images."""
    slices: tuple[int, ...]
    """The z of its planes, at every time point."""


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A field, a channel or planes that the run does not take, and why."""

    what: str
    why: str


class ExecutionPlan(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Pipeline x plate x topology, resolved.

    The value serialises with `to_json`; `pipeline` and `plate`, the live objects that a run needs, are bound to it and
    are not part of the value.
    """

    version: int = PLAN_VERSION
    name: str
    repository: str
    plate_id: int
    plate_name: str
    source_kind: Literal["stack", "projection"]
    channels: tuple[TakenChannel, ...]
    """In plate order."""
    size_t: int
    steps: tuple[PlannedStep, ...]
    stages: tuple[Stage, ...]
    units: tuple[Unit, ...]
    results: tuple[ResultSpec, ...]
    memory: Memory
    devices: tuple[Device, ...] = ()
    """GPUs that units run on."""
    left_out: tuple[LeftOut, ...] = ()
    save: bool = False
    """Results go into the repository."""

    def to_json(self) -> bytes:
        """Serialise the plan."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, text: bytes | str) -> ExecutionPlan:
        """Read a plan; `bind` it to its pipeline and plate before it is run.

        Raises
        ------
        msgspec.ValidationError
            If `text` is not a plan.
        """
        with DECODING:
            return msgspec.json.decode(text, type=cls)

    def bind(
        self, pipeline: Pipeline, plate: Plate, on_cpus: Callable[[Topology | None], ExecutionPlan] | None = None
    ) -> ExecutionPlan:
        """Attach the live objects that a run of this plan needs; returns the plan itself.

        Parameters
        ----------
        pipeline
            What was compiled.
        plate
            For what.
        on_cpus
            Compiles the same for CPUs, of another machine if it is told one; raises `CompileError` where functions do
            not allow it.
        """
        self.__dict__["pipeline"] = pipeline
        self.__dict__["plate"] = plate
        if on_cpus is not None:
            self.__dict__["on_cpus"] = on_cpus
        return self

    def on_cpus(self, topology: Topology | None = None) -> ExecutionPlan:
        """Compile the same for CPUs.

        Parameters
        ----------
        topology
            Of another machine than the one for which the plan is.

        Raises
        ------
        CompileError
            If a function has no kernel for them.
        UsageError
            If the plan does not know from what it was compiled.
        """
        again: Callable[[Topology | None], ExecutionPlan] | None = self.__dict__.get("on_cpus")
        if again is None:
            raise UsageError("This plan is for GPUs and cannot be made for CPUs by itself.", "Compile it for cpu.")
        return again(topology)

    @property
    def computes_on(self) -> tuple[str, ...]:
        """Where units are done: ``cpu``, and the ids of the GPUs."""
        on_cpu = any(unit.device == "cpu" for unit in self.units)
        return (*(("cpu",) if on_cpu else ()), *(device.id for device in self.devices))

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline that was compiled."""
        pipeline: Pipeline = self.__dict__["pipeline"]
        return pipeline

    @property
    def plate(self) -> Plate:
        """The plate that it was compiled for."""
        plate: Plate = self.__dict__["plate"]
        return plate
