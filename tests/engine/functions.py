"""Functions of a user's module, as steps take them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


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
