"""What is worked on in `tune` and `build`: a text, one of its steps, and the field that the preview is of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions.words import pipeline_words
from openhcs_jupyter.widgets.code import PipelineText
from openhcs_jupyter.widgets.sources import PlateSource


class Draft:
    """A pipeline that is worked on.

    Parameters
    ----------
    text
        What is begun with.
    source
        The plate of the preview.
    names
        What the text may use beside the user's names.
    well, field
        Where the preview is computed.
    step
        The step that is looked at first.
    builds
        Whether steps come and go, rather than only change their parameters.
    """

    def __init__(
        self,
        text: PipelineText,
        source: PlateSource,
        names: Mapping[str, Any],
        *,
        well: str | None = None,
        field: int = 1,
        step: int | str | None = None,
        builds: bool,
    ) -> None:
        self.text = text
        self.source = source
        self.builds = builds
        self.names = {**pipeline_words(), **_users_names(), **names}
        self.well = (source.plate.well(well) or _no_well(source, well)).name if well else source.plate.wells[0].name
        fields = source.fields(self.well)
        self.field = field if field in fields else fields[0]
        self.step = _index_of(text, step)


def _users_names() -> dict[str, Any]:
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return dict(shell.user_ns) if shell is not None else {}


def _index_of(text: PipelineText, step: int | str | None) -> int:
    if isinstance(step, int):
        if not 1 <= step <= len(text.steps):
            raise UsageError(f"There is no step {step}", f"The pipeline has {len(text.steps)}, counted from 1.")
        return step - 1
    names = [told.calls[0].function if told.calls else told.code for told in text.steps]
    if step is not None:
        for index, told in enumerate(text.steps):
            if step in (*(call.function for call in told.calls), told.options.get("name", "").strip("\"'")):
                return index
        raise UsageError(f"There is no step {step!r}", f"There are: {', '.join(names)}.")
    with_params = [index for index, told in enumerate(text.steps) if any(call.params for call in told.calls)]
    return with_params[0] if with_params else 0


def _no_well(source: PlateSource, well: str) -> Any:
    wells = [well.name for well in source.plate.wells]
    raise UsageError(f"Plate {source.title} has no well {well}", f"It has {wells[0]} to {wells[-1]}.")
