"""What steps hand to each other: which step makes an output, and what an input means."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from openhcs_jupyter.compiler.images import ImageState
from openhcs_jupyter.compiler.plan import PlannedInput, PlannedOutput
from openhcs_jupyter.compiler.problems import Fault, known
from openhcs_jupyter.model import RECORDED, Component, PixelGrid, Scope, common_grid
from openhcs_jupyter.pipeline import Pipeline, Step
from openhcs_jupyter.pipeline.chains import ALL
from openhcs_jupyter.pipeline.outputs import Output


class Made(msgspec.Struct, frozen=True):
    """An output that a step makes, as later steps see it."""

    output: PlannedOutput
    step: int
    channels: tuple[str, ...]
    scope: Scope
    stack: Component
    """Along what the stacks ran from which it was made."""
    grid: PixelGrid | None
    """How the pixels from which it was made lie over the recorded ones; None where that is not known."""


class Wiring:
    """The outputs of a pipeline, as its steps are resolved one after the other.

    Parameters
    ----------
    pipeline
        The pipeline as the user wrote it.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.made: list[Made] = []
        """By the steps that are resolved."""
        self._makers: dict[tuple[str, str], int] = {}
        """By kind and name: the first step that makes it, resolved or not."""
        for index, step in enumerate(pipeline.steps):
            for output in _named_outputs(step):
                self._makers.setdefault((output.kind, output.name), index)

    def outputs(
        self, step: Step, index: int, kind: str, stack: Component, channels: tuple[str, ...], fault: Fault
    ) -> tuple[PlannedOutput, ...]:
        """Return what a step puts out; whether once, or once for each of its channels."""
        named = _named_outputs(step)
        outputs: Sequence[object] = step.outputs
        for output in outputs:
            if output not in named:
                fault(f"{output!r} is not an output", 'Write Labels("name"), Table, Points or ImageOutput.')
        planned: list[PlannedOutput] = []
        for output in named:
            if not output.name.isidentifier():
                fault(f"{output.name!r} cannot name an output", "Use letters, digits and underscores.")
            twin = (output.kind, output.name) in {(made.kind, made.name) for made in planned}
            if twin or self._makers[output.kind, output.name] != index:
                fault(f"there are two outputs {output.kind} {output.name!r}", "Give each its own name.")
            if kind == "table" and output.kind != "table":
                fault(f"a table function makes tables, not {output.kind}")
            by_channel = kind != "table" and stack != "channel" and len(channels) > 1
            planned.append(PlannedOutput(name=output.name, kind=output.kind, by_channel=by_channel))
        if kind in ("table", "reducer") and not outputs:
            fault("it names no output, so nothing would be left of it", 'Name one: outputs=Table("name").')
        return tuple(planned)

    def inputs(
        self,
        step: Step,
        index: int,
        kind: str,
        stack: Component,
        channels: tuple[str, ...],
        before: ImageState,
        fault: Fault,
    ) -> tuple[PlannedInput, ...]:
        """Return what a step is given, and of which steps; `before` are the images that it is given."""
        planned = []
        for keyword, name in step.inputs.items():
            made = self._meant(index, kind, keyword, name, fault)
            if made is None:
                continue
            if kind == "pixels":
                _check_reach(made, stack, channels, before, fault)
            planned.append(
                PlannedInput(
                    keyword=keyword,
                    name=name,
                    kind=made.output.kind,
                    step=made.step,
                    by_channel=made.output.by_channel,
                )
            )
        return tuple(planned)

    def grids(self, inputs: Sequence[PlannedInput]) -> dict[str, tuple[PixelGrid | None, ...]]:
        """Return how the pixels lie from which a table function's tables were made."""
        taken = {(entry.kind, entry.name) for entry in inputs}
        makers = [made for made in self.made if (made.output.kind, made.output.name) in taken]
        grid = common_grid(made.grid for made in makers) if makers else RECORDED
        return {} if grid == RECORDED else {ALL: (grid, grid)}

    def _meant(self, index: int, kind: str, keyword: str, name: object, fault: Fault) -> Made | None:
        """Find what an input means: tables for a table function, pixels before tables for the others."""
        if not isinstance(name, str):
            fault(f"{keyword}={name!r} does not name an output", 'Write its name: inputs={"labels": "nuclei"}.')
            return None
        named = [made for made in self.made if made.output.name == name]
        tables = [made for made in named if made.output.kind in ("table", "points")]
        pixels = [made for made in named if made.output.kind in ("labels", "image")]
        if kind == "table" and pixels and not tables:
            fault(
                f"{keyword}={name!r} is {pixels[0].output.kind}; a table function takes tables",
                "A function of images takes the stack first, then its inputs.",
            )
            return None
        if kind == "table" and tables:
            return tables[0]
        if named:
            return (pixels or tables)[0]
        makers = [maker for (_, other), maker in self._makers.items() if other == name]
        if not makers:
            names = dict.fromkeys(made.output.name for made in self.made)
            fault(f"no step makes its input {name!r}", known(name, names))
        elif min(makers) >= index:
            when = "by this step itself" if min(makers) == index else f"later, by step {min(makers) + 1}"
            fault(f"its input {name!r} is made {when}", "Put the step that makes it first.")
        return None


def _check_reach(made: Made, stack: Component, channels: tuple[str, ...], before: ImageState, fault: Fault) -> None:
    """Check that an input is there for each stack that the step takes."""
    name = made.output.name
    if made.output.by_channel and stack == "channel":
        fault(
            f"{name!r} is made for each of {', '.join(made.channels)}, and this step takes channels together",
            "Make it from one channel: channel=... in the step that makes it.",
        )
    elif made.output.by_channel and set(channels) - set(made.channels):
        lacking = ", ".join(c for c in channels if c not in made.channels)
        fault(f"{name!r} is not made for channel {lacking}")
    if made.output.kind in ("table", "points"):
        return
    together = stack == "field" or not before.by_field
    if made.scope == "field" and together:
        fault(f"{name!r} is made in each field, and this step takes the fields of a well together")
    elif made.stack == "field" and made.scope == "well" and not together:
        fault(f"{name!r} is made of the fields of a well together, and this step takes each by itself")


def _named_outputs(step: object) -> list[Output]:
    outputs: Sequence[object] = step.outputs if isinstance(step, Step) else ()
    return [output for output in outputs if isinstance(output, Output) and isinstance(output.name, str)]
