"""A script that a user runs: compiles a pipeline for a plate and conducts its run; tests kill it.

``python -m tests.engine.pipeline_script REPOSITORY LOG [SCHEDULER]``
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from openhcs_jupyter import Labels, Step, Table, measure, table
from openhcs_jupyter.compiler import ExecutionPlan, compile
from openhcs_jupyter.engine import run
from openhcs_jupyter.engine.dask import DaskExecutor
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository import connect
from openhcs_jupyter.topology import discover
from tests.engine.functions import note


def steps(log: Path) -> list[Step]:
    """Make steps whose functions note each call in `log`, and take longer where there is a file ``slow`` beside it."""

    def scaled(stack: Any, factor: int) -> Any:
        return stack * factor

    def bright(stack: Any, context: Any) -> Any:
        import time

        if log.with_name("slow").exists():
            time.sleep(0.01)
        note(log, f"{context.well} {context.field} bright")
        return stack, (stack > 4000).astype(np.int32)

    @measure()
    def count(stack: Any, labels: Any) -> dict[str, int]:
        return {"bright": int((labels > 0).sum()), "sum": int(stack.sum(dtype=np.int64))}

    @table(over="well")
    def wells(counts: Any, context: Any) -> Any:
        note(log, f"{context.well} wells")
        return counts.groupby("well", as_index=False)[["bright", "sum"]].sum()

    @table(over="plate")
    def plate(wells: Any) -> Any:
        note(log, "plate")
        return {"bright": int(wells["bright"].sum()), "wells": len(wells)}

    return [
        Step(scaled, {"factor": 2}, channel="DAPI"),
        Step(bright, channel="DAPI", outputs=Labels("bright_areas"), save=True),
        Step(count, channel="DAPI", inputs={"labels": "bright_areas"}, outputs=Table("counts")),
        Step(wells, inputs={"counts": "counts"}, outputs=Table("wells")),
        Step(plate, inputs={"wells": "wells"}, outputs=Table("plate")),
    ]


def plan_of(repository: str, log: Path) -> ExecutionPlan:
    """Compile the steps for the repository's only plate."""
    opened = connect(repository)
    plate = opened.plate(opened.plates()[0].id)
    return compile(Pipeline(steps(log), "script"), plate, discover(), workers=2)


if __name__ == "__main__":
    executor = DaskExecutor(sys.argv[3]) if len(sys.argv) > 3 else None
    run(plan_of(sys.argv[1], Path(sys.argv[2])), executor).result()
