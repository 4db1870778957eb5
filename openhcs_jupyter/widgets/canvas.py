"""The widgets that draw in the browser; importing this module imports anywidget, so it is done when one is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"

Handler = Callable[[Mapping[str, Any]], None]
"""Takes a message of the browser, whose ``type`` says what it is."""


def _script(*names: str) -> str:
    """Join modules that stand in one scope: a widget's code is loaded as one text, which can import no neighbour."""
    return "\n".join((_STATIC / f"{name}.js").read_text(encoding="utf-8") for name in names)


def _style() -> str:
    return (_STATIC / "theme.css").read_text(encoding="utf-8")


class Canvas(anywidget.AnyWidget):
    """The base: knows whether somebody sees it, and hands on messages of the browser."""

    id = traitlets.Unicode().tag(sync=True)

    def __init__(self, handler: Handler | None = None, **traits: Any) -> None:
        super().__init__(**traits)
        self.id = self.model_id
        self.views = 0
        """How many views of it were made."""
        self._handler = handler
        self.on_msg(self._take)

    def _take(self, _: object, content: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:  # noqa: ARG002 - the interface has it
        if content.get("type") == "hello":
            self.views += 1
        if self._handler is not None:
            self._handler(content)


class RunCanvas(Canvas):
    """A run's display, see ``static/run.js``."""

    _esm = _script("plate", "run")
    _css = _style()
    plate = traitlets.Dict().tag(sync=True)
    """``rows`` and ``columns``."""
    state = traitlets.Bytes().tag(sync=True)
    """See `wells.WellStates.packed`."""
    info = traitlets.Dict().tag(sync=True)
    ended = traitlets.Dict().tag(sync=True)
    """The static result by MIME type, when the run has ended."""


class PlateCanvas(Canvas):
    """A plate map coloured by numbers, see ``static/wells.js``."""

    _esm = _script("plate", "wells")
    _css = _style()
    plate = traitlets.Dict().tag(sync=True)
    """``rows``, ``columns``, ``title``."""
    values = traitlets.Bytes().tag(sync=True)
    """A float32 for each well, row by row, NaN where there is none."""
    present = traitlets.Bytes().tag(sync=True)
    """A byte for each well: whether the plate has it."""
    colors = traitlets.Bytes().tag(sync=True)
    """256 times red, green, blue."""
    scale = traitlets.Dict().tag(sync=True)
    """``low``, ``high``, ``label``."""
    marked: Any = traitlets.List().tag(sync=True)
    """Indices of the wells that are open."""
    selected: Any = traitlets.List().tag(sync=True)


class ImageCanvas(Canvas):
    """A grid of pictures that zoom together, see ``static/images.js``; the pictures themselves are messages."""

    _esm = _script("images")
    _css = _style()
    tiles: Any = traitlets.List().tag(sync=True)
    """For each picture its ``id`` and ``caption``."""
    columns = traitlets.Int(1).tag(sync=True)
    side = traitlets.Int(480).tag(sync=True)
    """Width of a picture in CSS pixels."""
    note = traitlets.Unicode().tag(sync=True)


class CodeCanvas(Canvas):
    """A pane of code that can be edited, copied, and put into a new cell, see ``static/code.js``."""

    _esm = _script("code")
    _css = _style()
    text = traitlets.Unicode().tag(sync=True)
    complaint = traitlets.Unicode().tag(sync=True)
    """What is wrong with the text."""
    is_editable = traitlets.Bool(True).tag(sync=True)


class PlatesCanvas(Canvas):
    """The plates of a repository as cards, see ``static/plates.js``; thumbnails are messages."""

    _esm = _script("plates")
    _css = _style()
    plates: Any = traitlets.List().tag(sync=True)
    where = traitlets.Unicode().tag(sync=True)
    chosen = traitlets.Int(allow_none=True, default_value=None).tag(sync=True)
    """Id of the plate that the next cells take."""
