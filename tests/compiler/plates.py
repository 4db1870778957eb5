"""Plates in memory, and short ways to compile for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openhcs_jupyter.compiler import ExecutionPlan, Selection, compile
from openhcs_jupyter.errors import CompileError, Problem
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well, parse_well
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.topology import Topology

GB = 1_000_000_000


def layout(
    channels: int = 2, z: int = 3, t: int = 1, missing: Sequence[tuple[int, int, int]] = (), **how: Any
) -> Layout:
    given = {"size_y": 100, "size_x": 200, "dtype": "uint16", "pixel_size_um": 0.65} | how
    return Layout(size_t=t, size_c=channels, size_z=z, missing=tuple(sorted(missing)), **given)


def make_plate(
    wells: Sequence[str] = ("A01", "B02"),
    fields: int = 2,
    channels: Sequence[str] = ("DAPI", "GFP"),
    z: int = 3,
    t: int = 1,
    *,
    layouts: Mapping[tuple[str, int], Layout] | None = None,
    projections: Layout | None = None,
    versions: Mapping[tuple[str, int], str] | None = None,
    positions: Mapping[tuple[str, int], tuple[float, float]] | None = None,
    name: str = "plate",
    **how: Any,
) -> Plate:
    """Make a plate; `layouts`, `versions` and `positions` say what is different by well and field."""
    usual = layout(len(channels), z, t, **how)

    def field(well: str, number: int) -> Field:
        place = (well, number)
        row, column = parse_well(well)
        own = 1000 * (100 * row + column) + 10 * number
        version = (versions or {}).get(place, "1")
        images = [Image(id=own, kind="stack", layout=(layouts or {}).get(place, usual), version=version)]
        if projections is not None:
            images.append(Image(id=own + 1, kind="projection", layout=projections, version=version))
        position = (positions or {}).get(place, (1000.0 * number, 0.0))
        return Field(id=own, number=number, images=tuple(images), position_um=position)

    return Plate(
        id=1,
        name=name,
        repository="memory",
        rows=16,
        columns=24,
        channels=tuple(Channel(name=channel) for channel in channels),
        wells=tuple(
            Well(id=i, row=row, column=column, fields=tuple(field(well, n) for n in range(1, fields + 1)))
            for i, (well, (row, column)) in enumerate((well, parse_well(well)) for well in wells)
        ),
    )


def machine(cores: int = 4, free: int = 100 * GB) -> Topology:
    return Topology(host="here", cores=cores, memory_bytes=max(free, 1), memory_free_bytes=free)


def plan_of(
    steps: Sequence[Step] | Pipeline,
    plate: Plate | None = None,
    topology: Topology | None = None,
    *,
    save: bool = False,
    workers: int | None = None,
    memory_bytes: int | None = None,
    device: str = "auto",
    **selected: Any,
) -> ExecutionPlan:
    pipeline = steps if isinstance(steps, Pipeline) else Pipeline(steps)
    return compile(
        pipeline,
        plate or make_plate(),
        topology or machine(),
        Selection(**selected),
        save=save,
        workers=workers,
        memory_bytes=memory_bytes,
        device=device,
    )


def problems_of(steps: Sequence[Any], plate: Plate | None = None, **how: Any) -> list[Problem]:
    """Compile what cannot be compiled."""
    try:
        plan_of(steps, plate, **how)
    except CompileError as error:
        return list(error.problems)
    raise AssertionError("it compiled")


def problem_of(steps: Sequence[Any], plate: Plate | None = None, **how: Any) -> str:
    """Compile what has one problem, and say it with its hint."""
    (problem,) = problems_of(steps, plate, **how)
    return f"{problem.message} | {problem.hint}" if problem.hint else problem.message
