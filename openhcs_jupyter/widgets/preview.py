"""What a step makes of one field, as pictures: the text of a pipeline is evaluated, and computed from what changed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import lazy_loader

from openhcs_jupyter.engine.stepwise import Made, Stepwise
from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.model import ImageKind
from openhcs_jupyter.pipeline import Step, adapt, function_step, is_function_step
from openhcs_jupyter.topology import Topology, discover
from openhcs_jupyter.widgets import pictures
from openhcs_jupyter.widgets.code import PipelineText
from openhcs_jupyter.widgets.pictures import Layer
from openhcs_jupyter.widgets.sources import PlateSource

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
else:
    np = lazy_loader.load("numpy")


class Evaluator:
    """Makes steps of a pipeline's text; what stands around the list is executed only when it changes.

    Parameters
    ----------
    namespace
        The user's names; not changed.
    """

    def __init__(self, namespace: Mapping[str, Any]) -> None:
        self._given = namespace
        self._names: dict[str, Any] = {}
        self._others: str | None = None

    def steps(self, text: PipelineText) -> list[list[Step]]:
        """Return the steps of each entry of the list.

        Raises
        ------
        UsageError
            If the text raises, or an entry is no step; names the line.
        """
        others = ast.unparse(text.others)
        if others != self._others:
            names = dict(self._given)
            self._try(lambda: exec(compile(text.others, "<cell>", "exec"), names))  # noqa: S102 - running the user's code is what this is for
            self._names, self._others = names, others
        found = []
        for number, entry in enumerate(text.entries, 1):
            code = ast.fix_missing_locations(ast.Expression(ast.List([entry], ast.Load(), lineno=1, col_offset=0)))
            made = self._try(partial(eval, compile(code, "<cell>", "eval"), self._names))
            found.append([_step(value, number) for value in made])
        return found

    def function(self, name: str) -> Callable[..., Any] | None:
        """Return what a name or dotted name stands for, if it can be called."""
        first, *rest = name.split(".")
        value = self._names.get(first, self._given.get(first))
        for word in rest:
            value = getattr(value, word, None)
        return value if callable(value) else None

    def constant(self, written: str) -> tuple[Any, bool]:
        """Return the value of a literal and True, or anything and False where it is no literal."""
        try:
            return ast.literal_eval(written), True
        except (ValueError, SyntaxError):
            return None, False

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except OpenHCSError:
            raise
        except Exception as error:
            trace, line = error.__traceback__, 0
            while trace is not None:
                line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<cell>" else line
                trace = trace.tb_next
            raise UsageError(f"Line {line}: {type(error).__name__}: {error}", "Mend the text.") from error


def _step(value: Any, number: int) -> Step:
    if isinstance(value, Step):
        return value
    if is_function_step(value):
        step: Step = function_step(value, None)  # type: ignore[assignment]  # without a name it is a step
        return step
    raise UsageError(f"Entry {number} is {type(value).__name__}, not a Step", "Wrap it: Step(function, {params}).")


class Preview(NamedTuple):
    """What is shown of a step."""

    before: NDArray[np.uint8]
    after: NDArray[np.uint8]
    tables: Mapping[str, pd.DataFrame]
    seconds: float
    computed: int


class Previewer:
    """Previews steps on fields of one plate."""

    def __init__(self, source: PlateSource) -> None:
        self._source = source
        self._topology: Topology | None = None
        self._at: tuple[str, int] | None = None
        self._stepwise: Stepwise | None = None

    def look(self, entries: list[list[Step]], index: int, well: str, field: int, side: int) -> Preview:
        """Compute an entry of the list of steps on one field, and draw what stands before and after it.

        Raises
        ------
        OpenHCSError
            If the pipeline does not fit, or a step fails.
        """
        steps = [step for entry in entries[: index + 1] for step in entry]
        if not entries[index]:
            raise UsageError("This entry has no steps.")
        adapted = adapt(steps, self._source.plate, "the pipeline").steps
        stepwise = self._for(well, field)
        before, after = stepwise.run(adapted, len(adapted) - 1)
        earlier = before.images if before is not None else stepwise.source(adapted)
        only = adapted[-1].channel
        return Preview(
            self._drawn(earlier, only, None, side),
            self._drawn(after.images, only, after, side),
            after.tables,
            after.seconds,
            after.computed,
        )

    def _for(self, well: str, field: int) -> Stepwise:
        if self._stepwise is None or self._at != (well, field):
            self._topology = self._topology or discover()
            plate, repository = self._source.plate, self._source.repository
            kinds = {image.kind for _, one in plate.fields() for image in one.images}
            source: ImageKind = "stack" if "stack" in kinds else "projection"
            self._stepwise = Stepwise(plate, repository, self._topology, well=well, field=field, source=source)
            self._at = well, field
        return self._stepwise

    def _drawn(
        self, images: Mapping[str, NDArray[np.generic]], only: tuple[str, ...] | None, made: Made | None, side: int
    ) -> NDArray[np.uint8]:
        names = [name for name in images if only is None or name in only] or list(images)
        shapes = {images[name].shape[1:] for name in names}
        names = names if len(shapes) == 1 else names[:1]
        layers = []
        for name, tint in zip(names, self._source.tints(names), strict=True):
            stack = images[name]
            plane = pictures.shrunk(stack[0] if len(stack) == 1 else stack.max(axis=0), side)
            layers.append(Layer(plane, *pictures.limits(plane), tint))
        picture: Any = pictures.grown(pictures.colored(layers), side)
        for labels in made.labels.values() if made is not None else ():
            small = pictures.shrunk(labels[0] if len(labels) == 1 else labels.max(axis=0), side, nearest=True)
            fitting = pictures.grown(small, side, nearest=True)
            if fitting.shape == picture.shape[:2]:
                tint = pictures.OUTLINE if len(layers) == 1 else pictures.OUTLINE_OF_COLORS
                picture = pictures.outlined(picture, fitting, tint)
        drawn: NDArray[np.uint8] = picture
        return drawn
