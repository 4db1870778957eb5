"""Reducers: states that units leave, their merging, and what is made of the last one."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from openhcs_jupyter.compiler.plan import PlannedOutput, PlannedStep
from openhcs_jupyter.engine.calls import StepError, call_function, checked_labels
from openhcs_jupyter.engine.images import Pixels
from openhcs_jupyter.engine.program import Program
from openhcs_jupyter.engine.reading import UnitInputs
from openhcs_jupyter.engine.store import Writer, write_array, write_bytes
from openhcs_jupyter.engine.tables import ArrowTable, checked_table, joined, write_table
from openhcs_jupyter.pipeline.chains import ALL, BoundCall

States = dict[str | None, Any]
"""By channel; under None where channels are taken together."""


class StepReducer:
    """The four methods of a step's reducer, whose exceptions become the step's errors."""

    def __init__(self, program: Program, step: PlannedStep) -> None:
        call = program.calls[step.index][ALL][0]
        self._step = step
        made = call.function
        if isinstance(made, type):
            made = call_function(step, call, (), {})
        self._reducer = made

    def init(self) -> Any:
        """Return the empty state."""
        return self._do("init")

    def update(self, state: Any, stack: Pixels) -> Any:
        """Take one stack into a state."""
        return self._do("update", state, stack)

    def merge(self, state: Any, other: Any) -> Any:
        """Make one state of two."""
        return self._do("merge", state, other)

    def finish(self, state: Any) -> Any:
        """Return what the step's outputs are."""
        return self._do("finish", state)

    def _do(self, method: str, *args: Any) -> Any:
        return call_function(self._step, BoundCall(getattr(self._reducer, method), {}), args, {})


def merge(program: Program, inputs: UnitInputs, step_index: int) -> dict[str, Writer]:
    """Merge the states of a unit's parents in their order."""
    step = program.steps[step_index]
    return write_states(step_index, _merged(program, step, inputs.states(step_index)))


def write_states(step_index: int, states: States) -> dict[str, Writer]:
    """Return the file of a reducer's states."""
    return {f"state.{step_index}.pickle": write_bytes(pickle.dumps(states, protocol=5))}


def _merged(program: Program, step: PlannedStep, parts: Sequence[States]) -> States:
    reducer = StepReducer(program, step)
    merged: States = {}
    for part in parts:
        for channel, state in part.items():
            merged[channel] = reducer.merge(merged[channel], state) if channel in merged else state
    return merged


def finish(program: Program, inputs: UnitInputs, step_index: int) -> dict[str, Writer]:
    """Merge the last states and make the step's outputs of them."""
    step = program.steps[step_index]
    reducer = StepReducer(program, step)
    files: dict[str, Writer] = {}
    tables: dict[PlannedOutput, list[ArrowTable]] = {}
    merged = _merged(program, step, inputs.states(step_index))
    by_channel = len(step.channels) > 1 and step.stack != "channel"
    for channel, state in merged.items():
        result = reducer.finish(state)
        values = result if isinstance(result, tuple) and len(step.outputs) > 1 else (result,)
        if len(values) != len(step.outputs):
            raise StepError(step.index, f"finish returned {len(values)} outputs; the step names {len(step.outputs)}")
        for output, value in zip(step.outputs, values, strict=True):
            if output.kind in ("labels", "image"):
                mark = f".{step.channels.index(channel)}" if by_channel and channel else ""
                pixels = checked_labels(step, output.name, value, output.kind)
                files[f"{output.kind}.{output.name}{mark}.npy"] = write_array([pixels])
                continue
            place = {"plate": program.plate_name} | ({"channel": channel} if by_channel and channel else {})
            tables.setdefault(output, []).append(checked_table(step, output.name, value, place))
    for output, parts in tables.items():
        files[f"{output.kind}.{output.name}.arrow"] = write_table(joined(parts))
    return files
