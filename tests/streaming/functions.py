"""Functions of a user's module, as steps take them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

_LONGEST_S = 60


def hold(stack: Any, gate: str) -> Any:
    """Give the stack back when a file is there."""
    end = time.monotonic() + _LONGEST_S
    while not Path(gate).exists():
        if time.monotonic() > end:
            raise TimeoutError(gate)
        time.sleep(0.005)
    return stack


def fail_in(stack: Any, well: str, context: Any) -> Any:
    """Fail in one well."""
    if context.well == well:
        raise ValueError(f"<b>dark</b> in {well}")
    return stack
