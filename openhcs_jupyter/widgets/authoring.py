"""``tune`` and ``build``: a step's parameters, or a whole pipeline, chosen by eye; the result is code."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.pipeline.chains import ALL, BoundCall, chains_of
from openhcs_jupyter.widgets.code import EMPTY, PipelineText, value_text
from openhcs_jupyter.widgets.draft import Draft
from openhcs_jupyter.widgets.session import is_watched, session, widget_view
from openhcs_jupyter.widgets.sources import PlateSource, Viewable, source_of

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.widgets.workbench import Workbench

Tunable: TypeAlias = "Run | Step | Sequence[Step] | str"


def tune(
    what: Tunable,
    step: int | str | None = None,
    *,
    well: str | None = None,
    field: int = 1,
    plate: Viewable | None = None,
) -> Authoring:
    """Choose a step's parameters by eye: sliders, and what the step makes of one field.

    Parameters
    ----------
    what
        A run, a `Step`, a list of them, or the text of a cell.
    step
        Which one: its name, or its number counted from 1. Left out, the first that has parameters.
    well, field
        Where the preview is computed; left out, the first well and its first field.
    plate
        Of the preview; left out, the run's, the chosen one, or the only one.

    Raises
    ------
    UsageError
        If there is no such step, or no plate is chosen.

    Examples
    --------
    >>> tune(nuclei, "segment_nuclei", well="B03")  # doctest: +SKIP
    >>> tune(Step(gaussian_blur, {"sigma": 2}))  # doctest: +SKIP
    """
    text, names = _text_of(what)
    source = _plate_of(what if plate is None else plate)
    return Authoring(text, source, names, well=well, field=field, step=step, builds=False)


def build(
    text: str | None = None, *, well: str | None = None, field: int = 1, plate: Viewable | None = None
) -> Authoring:
    """Build a pipeline: choose steps, order them, set their parameters, and see what each makes of one field.

    The code stands beside; what is changed in one shows in the other.

    Parameters
    ----------
    text
        The text of a cell to begin with.
    well, field
        Where the preview is computed; left out, the first well and its first field.
    plate
        Of the preview; left out, the chosen one, or the only one.

    Raises
    ------
    UsageError
        If the text is no pipeline, or no plate is chosen.
    """
    return Authoring(PipelineText(text or EMPTY), _plate_of(plate), {}, well=well, field=field, builds=True)


class Authoring(Draft):
    """What `tune` and `build` return: a pipeline that is worked on; shows itself where a cell ends in it."""

    _workbench: Workbench | None = None

    @property
    def code(self) -> str:
        """The text as it is now."""
        return self.text.text

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:  # noqa: ARG002 - the interface has it
        forms: dict[str, Any] = {"text/plain": self.code, "text/html": f"<pre>{html.escape(self.code)}</pre>"}
        if is_watched():
            if self._workbench is None:
                from openhcs_jupyter.widgets.workbench import Workbench

                self._workbench = Workbench(self)
            forms |= widget_view(self._workbench.root)
        return forms


def _text_of(what: Tunable) -> tuple[PipelineText, dict[str, Any]]:
    from openhcs_jupyter.engine import Run

    if isinstance(what, str):
        return PipelineText(what), {}
    if isinstance(what, Run):
        return PipelineText(what.record.source), {}
    steps = [what] if isinstance(what, Step) else list(what)
    if not steps or not all(isinstance(step, Step) for step in steps):
        raise UsageError(f"{what!r} cannot be tuned", "Give a run, a Step, a list of steps, or the text of a cell.")
    names: dict[str, Any] = {}
    written = "".join(f"    {_written(step, names)},\n" for step in steps)
    return PipelineText(f"%%openhcs run\npipeline_steps = [\n{written}]\n"), names


def _written(step: Step, names: dict[str, Any]) -> str:
    """Write a step as code; `names` gets the functions and values that the code calls by name."""
    chains = chains_of(step)

    def function(call: BoundCall) -> str:
        names[call.name] = call.function
        return call.name

    def value(name: str, given: Any) -> str:
        text = value_text(given)
        try:
            compile(text, "<value>", "eval")
        except SyntaxError:  # an array, a model: known by the parameter's name
            names[name] = given
            return name
        return text

    def params(call: BoundCall) -> str:
        return "{" + ", ".join(f'"{name}": {value(name, given)}' for name, given in call.params.items()) + "}"

    def chain(calls: Sequence[BoundCall]) -> str:
        parts = [f"({function(call)}, {params(call)})" if call.params else function(call) for call in calls]
        return parts[0] if len(parts) == 1 else f"[{', '.join(parts)}]"

    if list(chains) == [ALL]:
        calls = chains[ALL]
        head = f"{function(calls[0])}, {params(calls[0])}" if len(calls) == 1 and calls[0].params else chain(calls)
    else:
        head = "{" + ", ".join(f'"{name}": {chain(calls)}' for name, calls in chains.items()) + "}"
    options = []
    if step.channel is not None:
        options.append(f"channel={step.channel[0]!r}" if len(step.channel) == 1 else f"channel={step.channel!r}")
    if step.stack is not None:
        options.append(f"stack={step.stack!r}")
    if step.inputs:
        options.append(f"inputs={step.inputs!r}")
    if step.outputs:
        made = [f"{type(output).__name__}({output.name!r})" for output in step.outputs]
        options.append(f"outputs={made[0] if len(made) == 1 else '[' + ', '.join(made) + ']'}")
    if step.save:
        options.append("save=True")
    return f"Step({', '.join([head, *options])})"


def _plate_of(what: Any) -> PlateSource:
    from openhcs_jupyter.engine import Run

    if isinstance(what, Run):
        what = what.record.plate_id if _is_joined(what) else source_of(what).plate
    if what is None or (isinstance(what, Step | Sequence) and not _names_plate(what)):
        what = session.plate
    if what is None:
        plates = session.joined().plates()
        if len(plates) != 1:
            raise UsageError("No plate is chosen", "Choose one: %openhcs plate ID, or give plate=.")
        what = plates[0].id
    source = source_of(what)
    assert isinstance(source, PlateSource)
    return source


def _names_plate(what: object) -> bool:
    return isinstance(what, str) and "\n" not in what and "=" not in what


def _is_joined(run: Run) -> bool:
    return session.repository is not None and session.repository.uri == run.record.repository
