"""Does the steps of a pipeline on one field in this process, one by one, and again only from the first that changed."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from openhcs_jupyter.compiler import Selection, compile
from openhcs_jupyter.compiler.plan import ExecutionPlan, PlannedStep, Stage
from openhcs_jupyter.engine.calls import StepError, checked_labels
from openhcs_jupyter.engine.compute import Computation
from openhcs_jupyter.engine.devices.base import on_host
from openhcs_jupyter.engine.images import Images, Pixels, Site
from openhcs_jupyter.engine.places import Places
from openhcs_jupyter.engine.program import Program, Work, program_of
from openhcs_jupyter.engine.reading import UnitInputs
from openhcs_jupyter.engine.reducing import StepReducer
from openhcs_jupyter.engine.tables import checked_table, joined
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.model import ImageKind, Plate, RunRecord
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.topology import Topology

if TYPE_CHECKING:
    import pandas as pd

    from openhcs_jupyter.repository import Repository


class Made(NamedTuple):
    """What stands after a step."""

    images: Mapping[str, Pixels]
    """By channel: ``(N, Y, X)`` of the first time point."""
    labels: Mapping[str, Pixels]
    """Of the step's own outputs: ``(N, Y, X)``."""
    tables: Mapping[str, pd.DataFrame]
    """Of the step's own outputs."""
    seconds: float
    """What the step itself took."""
    computed: int
    """How many steps were done for this; those before stood already."""


class Stepwise:
    """Previews a pipeline on one field.

    A reducer sees this one field only, and so does a table function that reaches further.

    Parameters
    ----------
    plate, repository
        Where the field lies.
    topology
        The machine.
    well, field
        Which field; counted from 1.
    source
        Which of its images.
    """

    def __init__(
        self,
        plate: Plate,
        repository: Repository,
        topology: Topology,
        *,
        well: str,
        field: int = 1,
        source: ImageKind = "stack",
    ) -> None:
        self._plate = plate
        self._repository = repository
        self._topology = topology
        self._field = field
        self._selection = Selection(wells=(well,), fields=(field,), source=source)
        self._stood: list[tuple[bytes, _Steps, float]] = []
        """For each step that was done: what tells it apart, what stood after it, and what it took."""

    def run(self, steps: Sequence[Step], upto: int) -> tuple[Made | None, Made]:
        """Do the steps up to one, which is counted from 0.

        Parameters
        ----------
        steps
            The pipeline.
        upto
            The step that is looked at.

        Returns
        -------
        tuple of Made or None and Made
            What stands before the step, None before the first one, and after it.

        Raises
        ------
        CompileError
            If the pipeline does not fit the plate.
        RunError
            If a step fails; names it.
        """
        pipeline = Pipeline(steps[: upto + 1], "preview")
        plan = compile(pipeline, self._plate, self._topology, self._selection, device="cpu")
        program = _program(plan)
        marks = [_mark(plan, step) for step in plan.steps]
        same = 0
        while same < min(len(self._stood), len(marks)) and self._stood[same][0] == marks[same]:
            same += 1
        del self._stood[same:]
        state = self._stood[-1][1].resumed(program) if same else self._fresh(plan, program)
        for step in program.steps[same:]:
            begin = time.perf_counter()
            try:
                state.do(step)
            except StepError as error:
                where = f" (line {step.line})" if step.line else ""
                raise RunError(f"Step {step.name}{where}: {error.message}") from error
            self._stood.append((marks[step.index], state, time.perf_counter() - begin))
            state = state.resumed(program)
        made = len(plan.steps) - same
        before = self._made(program.steps[-2], -2, 0) if len(program.steps) > 1 else None
        return before, self._made(program.steps[-1], -1, made)

    def source(self, steps: Sequence[Step]) -> Mapping[str, Pixels]:
        """Return the field's images as they are before the first step, by channel."""
        plan = compile(Pipeline(steps[:1], "preview"), self._plate, self._topology, self._selection, device="cpu")
        return self._fresh(plan, _program(plan)).stacks()

    def _fresh(self, plan: ExecutionPlan, program: Program) -> _Steps:
        unit = msgspec.structs.replace(
            next(unit for unit in plan.units if unit.images), stage=0, parents=(), field=self._field
        )  # fmt: skip
        work = Work(unit=unit, sources=Places(plan).sources(unit), parents=(), key=unit.key)
        return _Steps(program, UnitInputs(program, work, self._repository))

    def _made(self, step: PlannedStep, at: int, computed: int) -> Made:
        _, state, seconds = self._stood[at]
        labels, tables = {}, {}
        for output in step.outputs:
            if output.kind in ("labels", "image"):
                found = next(iter(state.pixels.get((output.kind, output.name), {}).values()), None)
                if found is not None and output.kind == "labels":
                    labels[output.name] = found
            elif parts := state.tables.get((output.kind, output.name)):
                tables[output.name] = joined(parts).to_pandas()
        return Made(state.stacks(), labels, tables, seconds, computed)


class _Steps(Computation):
    """One field on its way through the steps, which are done one at a time."""

    def __init__(self, program: Program, inputs: UnitInputs) -> None:
        super().__init__(program, inputs, lambda _: None, None)
        self.images = Images(inputs.fields, inputs.size_t, inputs.loads)

    def resumed(self, program: Program) -> _Steps:
        """Return what goes on from here and leaves this as it is."""
        other = copy.copy(self)
        other.program = program
        other.images = copy.copy(self.images)
        assert other.images is not None
        other.images._stacks = dict(other.images._stacks)
        other.pixels, other.tables = dict(self.pixels), dict(self.tables)
        other.states, other.kept = {}, {}
        return other

    def do(self, step: PlannedStep) -> None:
        """Do one step."""
        self.steps = [step]
        self.at = {step.index: 0}
        if step.kind == "table":
            self._table(step)
        elif step.stack == "z":
            self._along_z([step])
        else:
            self._along(step)
        if step.kind == "reducer":
            self._finish(step)

    def stacks(self) -> dict[str, Pixels]:
        """Return the images as they are now, by channel."""
        images = self.images
        assert images is not None
        field = images.fields[0]
        return {channel: on_host(images.get(field, images.times[0], channel).array) for channel in images.channels}

    def _finish(self, step: PlannedStep) -> None:
        """Make a reducer's outputs of the states that this one field has left."""
        reducer = StepReducer(self.program, step)
        for channel, state in self.states.pop(step.index, {}).items():
            result = reducer.finish(state)
            values = result if isinstance(result, tuple) and len(step.outputs) > 1 else (result,)
            for output, value in zip(step.outputs, values, strict=True):
                if output.kind in ("labels", "image"):
                    site = Site(None, None, channel if output.by_channel else None, None)
                    pixels = checked_labels(step, output.name, value, output.kind)
                    self.pixels[output.kind, output.name] = {
                        **self.pixels.get((output.kind, output.name), {}), site: pixels
                    }  # fmt: skip
                else:
                    self.tables[output.kind, output.name] = [checked_table(step, output.name, value, {})]


def _mark(plan: ExecutionPlan, step: PlannedStep) -> bytes:
    """Tell a step apart from any that would make something else of the same images."""
    taken = [(channel.channel.name, channel.slices) for channel in plan.channels]
    return msgspec.json.encode((taken, msgspec.structs.replace(step, line=0, keep_as=None)))


def _program(plan: ExecutionPlan) -> Program:
    record = RunRecord(
        id="preview", name="preview", repository=plan.repository, plate_id=plan.plate_id, plate_name=plan.plate_name,
        source="", source_name="", options={}, user="", host="", started="", versions={}, inputs={},
    )  # fmt: skip
    program = program_of(plan, record, Path())
    steps = tuple(step.index for step in plan.steps)
    stage = Stage(
        index=0, kind="compute", name="preview", scope="field", steps=steps, starts_from=None, carries=True, units=1
    )
    return msgspec.structs.replace(program, stages=(stage,))
