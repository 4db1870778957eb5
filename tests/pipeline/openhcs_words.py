"""What OpenHCS's users write, for the tests of its pipelines."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openhcs_jupyter.errors import CompileError
from openhcs_jupyter.model import Channel, Field, Image, Layout, Plate, Well
from openhcs_jupyter.pipeline import adapt

CHECKOUT = Path(__file__).parents[2]
Z = ["z_index"]


class VariableComponents(Enum):
    """As OpenHCS has them."""

    SITE = "site"
    CHANNEL = "channel"
    Z_INDEX = "z_index"
    TIMEPOINT = "timepoint"


class GroupBy(Enum):
    CHANNEL = "channel"
    SITE = "site"
    NONE = None


def plate_of(*channels: str, rows: int = 2, columns: int = 3) -> Plate:
    layout = Layout(size_t=1, size_c=2, size_z=3, size_y=8, size_x=8, dtype="uint16")
    field = Field(id=1, number=1, images=(Image(id=1, kind="stack", layout=layout, version="1"),))
    wells = [(row, column) for row in range(rows) for column in range(columns)]
    return Plate(
        id=1,
        name="plate",
        repository="nowhere",
        rows=8,
        columns=12,
        channels=tuple(Channel(name=name) for name in channels or ("DAPI", "GFP")),
        wells=tuple(
            Well(id=number, row=row, column=column, fields=(field,)) for number, (row, column) in enumerate(wells)
        ),
    )


PLATE = plate_of()


def of_openhcs(function: Callable[..., Any], contract: str = "FLEXIBLE", **marks: Any) -> Callable[..., Any]:
    """Mark a function as OpenHCS's decorators do."""
    function.input_memory_type = function.output_memory_type = "numpy"
    function.__openhcs_declared_processing_contract__ = contract
    for name, value in marks.items():
        setattr(function, f"__{name}__", value)
    return function


def spec(name: str, kind: str, parameter: str | None = None, *writers: object) -> SimpleNamespace:
    return SimpleNamespace(
        name=name,
        artifact_type=SimpleNamespace(value=kind),
        parameter_name=parameter,
        materialization=SimpleNamespace(outputs=writers) if writers else None,
    )


def problem(*steps: Any, plate: Plate = PLATE) -> str:
    with pytest.raises(CompileError) as caught:
        adapt(steps, plate, "Cell In[1]")
    return str(caught.value)
