"""What a worker is given: the program of a run once, and the work of a unit each time."""

from __future__ import annotations

import inspect
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle
import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, PlannedStep, Stage, TakenChannel, Unit
from openhcs_jupyter.engine.forking import LIKELY
from openhcs_jupyter.engine.waypoints import DISK_BYTES_PER_S, KeptWaypoints, Start
from openhcs_jupyter.events import StoredFile
from openhcs_jupyter.model import Channel, Image, ResultSpec, RunRecord
from openhcs_jupyter.pipeline._packages import OWN, place_of
from openhcs_jupyter.pipeline.chains import Chains, chains_of
from openhcs_jupyter.topology import Device

_NOT_FORKED = {"cupy", "cupyx", "cucim", "torch", "jax", "tensorflow"}
"""Packages of GPUs, whose state does not survive a fork: each worker imports them itself."""


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
        modules=_installed_modules(calls),
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


def _installed_modules(calls: Mapping[int, Chains]) -> tuple[str, ...]:
    found: set[str] = set()
    functions = [call.function for chains in calls.values() for chain in chains.values() for call in chain]
    for function in functions:
        plain = inspect.unwrap(function)
        found.add(str(getattr(plain, "__module__", "")))
        names = getattr(plain, "__globals__", {})
        for name in getattr(getattr(plain, "__code__", None), "co_names", ()):
            value = names.get(name)
            if isinstance(value, ModuleType):
                found.add(value.__name__)
            elif callable(value):
                found.add(str(getattr(value, "__module__", "")))
    found |= _imported_later(functions)
    found = {name for name in found if name and name.partition(".")[0] not in _NOT_FORKED}
    return tuple(sorted(name for name in found if place_of(name) in ("installed", "own")))


def _imported_later(functions: Iterable[Callable[..., Any]]) -> set[str]:
    """Find those modules of `LIKELY` that functions or their helpers import when they are called."""
    words: set[str] = set()
    todo: list[tuple[CodeType, Mapping[str, Any]]] = []
    for function in functions:
        plain = inspect.unwrap(function)
        if isinstance(plain, FunctionType):
            todo.append((plain.__code__, plain.__globals__))
    seen = set()
    while todo:
        code, names = todo.pop()
        if code in seen:
            continue
        seen.add(code)
        words.update(part for name in code.co_names for part in name.split("."))
        todo += [(constant, names) for constant in code.co_consts if isinstance(constant, CodeType)]
        helpers = (names.get(name) for name in code.co_names)
        todo += [(one.__code__, one.__globals__) for one in helpers if isinstance(one, FunctionType)]
    if "pandas" in words:
        words.add("pyarrow")  # for what becomes of a table
    return {module for module in LIKELY if _telling(module) in words}


def _telling(module: str) -> str:
    """Return the word by which a function that imports a module has it among its names."""
    words = module.split(".")
    return words[-1] if words[0] == OWN else words[0]


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
