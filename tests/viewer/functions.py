"""Functions of a user's module, as steps take them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

_LONGEST_S = 120


def hold_well(stack: Any, gates: str, context: Any) -> Any:
    """Give the stack back when there is a file of the well's name, or one named ``all``.

    A file ``A01.bad`` is a reason to fail in that well.
    """
    end = time.monotonic() + _LONGEST_S
    if Path(gates, f"{context.well}.bad").exists():
        raise ValueError("the lamp was off")
    while not (Path(gates, context.well).exists() or Path(gates, "all").exists()):
        if time.monotonic() > end:
            raise TimeoutError(gates)
        time.sleep(0.005)
    return stack
