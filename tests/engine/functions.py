"""Functions of a user's module, as steps take them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.pipeline.contracts import measure


def note(log: Path, what: str) -> None:
    """Append a line to a file that several processes write."""
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{what}\n".encode())
    finally:
        os.close(file)


def negative(stack: NDArray[np.generic]) -> NDArray[np.generic]:
    """Turn bright into dark."""
    return 4095 - stack


class Mean:
    """A reducer over the plate: mean image of every stack's planes."""

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def init(self) -> Any:
        return {"sum": 0.0, "planes": 0, "order": []}

    def update(self, state: Any, stack: Any) -> Any:
        state["sum"] = state["sum"] + stack.sum(0, dtype=np.float64)
        state["planes"] += len(stack)
        state["order"] = [*state["order"], int(stack[0, 0, 0])]
        return state

    def merge(self, state: Any, other: Any) -> Any:
        return {
            "sum": state["sum"] + other["sum"],
            "planes": state["planes"] + other["planes"],
            "order": state["order"] + other["order"],
        }

    def finish(self, state: Any) -> Any:
        mean = state["sum"] / state["planes"] * self.scale
        return mean, {"place": np.arange(len(state["order"])), "first": state["order"]}


@measure()
def total(stack: Any) -> dict[str, int]:
    return {"total": int(stack.sum(dtype=np.int64))}
