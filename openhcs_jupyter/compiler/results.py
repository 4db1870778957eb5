"""Decides what of a pipeline is kept: saved images, outputs, and the images that labels lie over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.images import ImageState
from openhcs_jupyter.compiler.plan import PlannedStep, grid_of, made_channels
from openhcs_jupyter.compiler.problems import Problems
from openhcs_jupyter.compiler.resolve import Resolved
from openhcs_jupyter.model import ResultSpec, Scope
from openhcs_jupyter.pipeline import Pipeline


def decide_results(
    pipeline: Pipeline, resolved: Resolved, problems: Problems
) -> tuple[list[PlannedStep], list[ResultSpec]]:
    """Return the steps with those images marked that are kept, and the results in the order in which they are made.

    A pipeline that keeps nothing keeps its last step's images. Labels and points need an image to lie over: where no
    kept image shows their channel as it was when they were made, the image of their own step is kept, too.
    """
    steps = list(resolved.steps)
    if not any(step.keep_as or step.outputs for step in steps):
        last = max((i for i, step in enumerate(steps) if step.kind == "pixels"), default=None)
        if last is not None:
            steps[last] = msgspec.structs.replace(steps[last], keep_as=steps[last].name)
    results: list[ResultSpec] = []
    for position, step in enumerate(steps):
        if step.kind == "pixels" and any(output.kind in ("labels", "points") for output in step.outputs):
            kept = msgspec.structs.replace(step, keep_as=step.keep_as or _free_name(step.name, pipeline))
            if _over(steps[:position], step, resolved.after) is None and _lies_over(kept, step, resolved.after):
                steps[position] = kept
        results += _results(steps[: position + 1], resolved.after)
    _check_names(pipeline, results, problems)
    return steps, results


def _free_name(name: str, pipeline: Pipeline) -> str:
    """Name the images that are kept unasked, so that they take no name that the user gave."""
    given = {output.name for step in pipeline.steps for output in step.outputs}
    given |= {step.name for step in pipeline.steps if step.save}
    while name in given:
        name += "_image"
    return name


def _results(steps: Sequence[PlannedStep], after: Mapping[int, ImageState]) -> Iterator[ResultSpec]:
    """Iterate over the results of the last of these steps."""
    step = steps[-1]
    grid = grid_of(step, step.channels)
    if step.keep_as is not None:
        scope = after[step.index].scope
        yield ResultSpec(
            name=step.keep_as, kind="image", step=step.index, scope=scope, channels=made_channels(step), grid=grid
        )
    for output in step.outputs:
        channels = step.channels
        if output.kind == "table" and not output.by_channel:
            channels = ()
        elif output.kind == "image" and not output.by_channel and len(channels) > 1:
            channels = (output.name,)
        over = _over(steps, step, after) if output.kind in ("labels", "points") else None
        yield ResultSpec(
            name=output.name,
            kind=output.kind,
            step=step.index,
            scope="plate" if step.kind == "reducer" else step.scope,
            channels=channels,
            over=over.keep_as if over else None,
            grid=grid,
        )


def _over(candidates: Sequence[PlannedStep], step: PlannedStep, after: Mapping[int, ImageState]) -> PlannedStep | None:
    """Find the latest kept image over which a step's labels lie."""
    return next((other for other in reversed(candidates) if _lies_over(other, step, after)), None)


def _lies_over(image: PlannedStep, step: PlannedStep, after: Mapping[int, ImageState]) -> bool:
    """Tell whether a kept image shows what a step's labels were made from: the same pixels of all its channels."""
    scope: Scope = "plate" if step.kind == "reducer" else step.scope
    shown, made_from = after[image.index], after[step.index]
    if image.keep_as is None or shown.scope != scope or shown.by_time != made_from.by_time:
        return False
    if image.index == step.index:
        return True
    channels = made_channels(image)
    return all(
        name in channels
        and name in made_from.slices
        and _as_deep(shown, made_from, name)
        and shown.grid(name) == made_from.grid(name)
        for name in step.channels
    )


def _as_deep(one: ImageState, other: ImageState, channel: str) -> bool:
    a, b = one.slices[channel], other.slices[channel]
    return a == b or (not isinstance(a, int) and not isinstance(b, int) and len(a) == len(b))


def _check_names(pipeline: Pipeline, results: Sequence[ResultSpec], problems: Problems) -> None:
    # Images and labels share their names, and so do tables and points: results are asked for by name.
    seen: dict[tuple[bool, str], ResultSpec] = {}
    for result in results:
        if seen.setdefault((result.kind in ("image", "labels"), result.name), result) is not result:
            problems.add(
                f"two results would be named {result.name!r}",
                "Give the step a name=, or the output a name, of its own.",
                pipeline.steps[result.step],
            )
