"""Pipeline x plate x topology -> `ExecutionPlan`, with every problem found before a pixel is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from openhcs_jupyter.compiler.compiling import compile
    from openhcs_jupyter.compiler.plan import ExecutionPlan
    from openhcs_jupyter.compiler.selection import Selection

__all__ = ["ExecutionPlan", "Selection", "compile"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "compiling": ["compile"],
        "plan": ["ExecutionPlan"],
        "selection": ["Selection"],
    },
)
