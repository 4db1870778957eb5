"""Decides what of a pipeline is kept: saved images, outputs, and the images that labels lie over."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from openhcs_jupyter.compiler.plan import PlannedStep
from openhcs_jupyter.compiler.problems import Problems
from openhcs_jupyter.model import ResultSpec, Scope
from openhcs_jupyter.pipeline import Pipeline


def decide_results(
    pipeline: Pipeline, steps: Sequence[PlannedStep], problems: Problems
) -> tuple[list[PlannedStep], list[ResultSpec]]:
    """Return the steps with those images marked that are kept, and the results in the order in which they are made.

    A pipeline that keeps nothing keeps its last step's images. Labels need an image to lie over: where no kept image
    shows their channel, the image that they were made from is kept, too.
    """
    steps = list(steps)
    if not any(step.keep or step.outputs for step in steps):
        last = max((i for i, step in enumerate(steps) if step.kind == "pixels"), default=None)
        if last is not None:
            steps[last] = msgspec.structs.replace(steps[last], keep=True)
    for position, step in enumerate(steps):
        pixels = any(output.kind in ("labels", "points") for output in step.outputs) and step.kind == "pixels"
        if pixels and _over(steps[: position + 1], step) is None:
            steps[position] = msgspec.structs.replace(step, keep=True)
    results: list[ResultSpec] = []
    for position, step in enumerate(steps):
        scope: Scope = "plate" if step.kind == "reducer" else step.scope
        made = _made_channels(step)
        if step.keep:
            results.append(ResultSpec(name=step.name, kind="image", step=step.index, scope=scope, channels=made))
        for output in step.outputs:
            over = _over(steps[: position + 1], step) if output.kind in ("labels", "points") else None
            results.append(
                ResultSpec(
                    name=output.name,
                    kind=output.kind,
                    step=step.index,
                    scope=scope,
                    channels=step.channels if output.kind != "table" or output.by_channel else (),
                    over=over.name if over else None,
                )
            )
    _check_names(pipeline, results, problems)
    return steps, results


def _made_channels(step: PlannedStep) -> tuple[str, ...]:
    """Name the channels of the images that a step makes: those it takes, or the one into which it joins them."""
    taken = tuple(name for name in step.channels_after if name in step.channels)
    return taken or step.channels_after[-1:]


def _over(before: Sequence[PlannedStep], step: PlannedStep) -> PlannedStep | None:
    """Find the latest kept image that shows the channel from which a step makes its labels."""
    for other in reversed(before):
        if other.keep and other.scope == step.scope and set(step.channels) <= set(_made_channels(other)):
            return other
    return None


def _check_names(pipeline: Pipeline, results: Sequence[ResultSpec], problems: Problems) -> None:
    # Images and labels share their names, and so do tables and points: results are asked for by name.
    seen: dict[tuple[bool, str], ResultSpec] = {}
    for result in results:
        if seen.setdefault((result.kind in ("image", "labels"), result.name), result) is not result:
            problems.add(
                f"two results would be named {result.name!r}",
                "Give one of the steps a name= of its own.",
                pipeline.steps[result.step],
            )
