"""The one door to a run: from a text and options to steps, a plan, and a run."""

from __future__ import annotations

from openhcs_jupyter.door.options import DEFAULT_NAME, RunOptions
from openhcs_jupyter.door.start import choose_plate, plan_run, prepare, start, viewers_of
from openhcs_jupyter.door.text import CellError, Script, Source, define_steps, python_of, read_source, script_of

__all__ = [
    "DEFAULT_NAME",
    "CellError",
    "RunOptions",
    "Script",
    "Source",
    "choose_plate",
    "define_steps",
    "plan_run",
    "prepare",
    "python_of",
    "read_source",
    "script_of",
    "start",
    "viewers_of",
]
