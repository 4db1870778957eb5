"""Pipeline x plate x topology -> `ExecutionPlan`, with every problem found before a pixel is read."""

from __future__ import annotations

from openhcs_jupyter.compiler.compile import compile
from openhcs_jupyter.compiler.plan import ExecutionPlan
from openhcs_jupyter.compiler.selection import Selection

__all__ = ["ExecutionPlan", "Selection", "compile"]
