"""Splits steps into stages: only where a step needs what another unit makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.plan import PlannedStep, Stage, Transfer
from openhcs_jupyter.model import WIDTH, ResultSpec, Scope

MERGED_AT_A_TIME = 16


class DraftStage(msgspec.Struct, kw_only=True):
    """A stage while it is being put together."""

    index: int
    kind: str
    scope: Scope
    steps: list[int]
    starts_from: int | None = None
    needs: set[int] = msgspec.field(default_factory=set)
    """Stages whose units' results it takes beside its images."""
    carries: bool = False
    """A later stage goes on with its images."""


class Splitter:
    """Gives every step its stage, in the order of the pipeline.

    A unit of a stage does all the stage's steps. Steps on pixels go on in the stage of those before them, unless they
    reach wider or need what a later stage makes; table steps join the stage that makes their tables if its units reach
    as far as the tables do.

    Parameters
    ----------
    steps
        The steps in order.
    units
        How many units a stage of each scope has.
    """

    def __init__(self, steps: Sequence[PlannedStep], units: Mapping[Scope, int]) -> None:
        self.stages: list[DraftStage] = []
        self.made_in: dict[int, int] = {}
        """By step index: the stage that makes its outputs."""
        self._units = units
        self._pixels: DraftStage | None = None
        """The latest stage of steps on pixels."""
        self._changed: DraftStage | None = None
        """The latest stage that changes images."""
        self._of_tables: set[int] = set()
        for step in steps:
            needs = {self.made_in[entry.step] for entry in step.inputs}
            if step.kind == "table":
                self._place_table(step, needs)
            else:
                self._place_pixels(step, needs)
            if step.kind == "reducer":
                self._reduce(step)

    def add(self, kind: str, scope: Scope, steps: list[int], **more: int | set[int] | None) -> DraftStage:
        """Append a stage."""
        stage = DraftStage(index=len(self.stages), kind=kind, scope=scope, steps=steps, **more)  # type: ignore[arg-type]  # the caller's own fields
        self.stages.append(stage)
        return stage

    def _place_pixels(self, step: PlannedStep, needs: set[int]) -> None:
        stage = self._pixels
        wider = stage is not None and WIDTH[step.scope] > WIDTH[stage.scope]
        if stage is None or wider or any(need > stage.index for need in needs):
            before = self._changed
            scope = step.scope if before is None else max(step.scope, before.scope, key=WIDTH.__getitem__)
            stage = self._pixels = self.add("compute", scope, [], starts_from=before.index if before else None)
            if before is not None:
                before.carries = True
        stage.steps.append(step.index)
        stage.needs |= needs - {stage.index}
        self.made_in[step.index] = stage.index
        if step.kind == "pixels" and any(use.kind != "measure" for uses in step.chains.values() for use in uses):
            self._changed = stage

    def _place_table(self, step: PlannedStep, needs: set[int]) -> None:
        latest = max(needs)
        for stage in self.stages[latest:]:
            open_to_it = stage.kind == "compute" and (stage.index == latest or stage.index in self._of_tables)
            if open_to_it and stage.scope == step.scope:
                break
        else:
            stage = self.add("compute", step.scope, [])
            self._of_tables.add(stage.index)
        stage.steps.append(step.index)
        stage.needs |= needs - {stage.index}
        self.made_in[step.index] = stage.index

    def _reduce(self, step: PlannedStep) -> None:
        """Merge the states that a reducer leaves in every unit, sixteen at a time, then finish."""
        assert self._pixels is not None
        below = self._pixels.index
        count = self._units[self._pixels.scope]
        while count > MERGED_AT_A_TIME:
            below = self.add("merge", "plate", [step.index], needs={below}).index
            count = -(-count // MERGED_AT_A_TIME)
        finish = self.add("finish", "plate", [step.index], needs={below})
        self.made_in[step.index] = finish.index


def add_saving(splitter: Splitter, results: Sequence[ResultSpec]) -> None:
    """Append the stages that write pixel results into the repository, one for each scope that has any."""
    for scope in ("field", "well", "plate"):
        steps = [r.step for r in results if r.scope == scope and r.kind in ("image", "labels")]
        if steps:
            needs = {splitter.made_in[step] for step in steps}
            splitter.add("save", scope, sorted(set(steps)), needs=needs)


def finished(
    draft: DraftStage,
    steps: Sequence[PlannedStep],
    units: int,
    ways: tuple[str, ...],
    transfers: tuple[Transfer, ...] = (),
) -> Stage:
    """Return the plan's form of a stage."""
    names = [step.name for step in steps if step.index in draft.steps]
    shown = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}" if names else ""
    name = {"compute": shown, "merge": f"merge {shown}", "finish": f"finish {shown}", "save": "save"}[draft.kind]
    return Stage(
        index=draft.index,
        kind=draft.kind,  # type: ignore[arg-type]  # one of the four, as the table above shows
        name=name,
        scope=draft.scope,
        steps=tuple(draft.steps),
        starts_from=draft.starts_from,
        carries=draft.carries,
        units=units,
        ways=ways,
        transfers=transfers,
    )
