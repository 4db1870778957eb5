"""What a cell's options take from the kernel: the name of its run, and the wells that are selected."""

from __future__ import annotations

import builtins
import keyword
from typing import TYPE_CHECKING, Any

import msgspec

from openhcs_jupyter.door import RunOptions
from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.model import Plate

SELECTED = "selected"
"""Stands for the wells that are selected in the plate view."""


def checked_name(name: str, namespace: dict[str, Any]) -> str:
    """Return `name` if it can be the variable of a run.

    Raises
    ------
    UsageError
        If it is not an identifier, or the name of a function, class or module that the user has.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot be the name of a variable", "The run's name comes first: %%openhcs nuclei.")
    held = namespace.get(name, getattr(builtins, name, None))
    if callable(held) or type(held).__name__ == "module":
        kind = "module" if type(held).__name__ == "module" else "function or class"
        raise UsageError(f"{name!r} is a {kind} already; a run would replace it", "Give the run another name.")
    return name


def with_selected(options: RunOptions, plate: Plate) -> RunOptions:
    """Name the wells where the options take those that are selected in the plate view.

    Raises
    ------
    UsageError
        If none are.
    """
    if options.wells != SELECTED:
        return options
    from openhcs_jupyter.widgets.session import session

    return msgspec.structs.replace(options, wells=",".join(session.selected(plate)))
