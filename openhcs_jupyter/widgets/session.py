"""What the widgets and cells of one kernel tell each other: the repository, the chosen plate, selected wells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.model import Plate
    from openhcs_jupyter.repository import Repository

WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"


class Session:
    """One kernel's memory of what was chosen."""

    def __init__(self) -> None:
        self.repository: Repository | None = None
        """The one that ``%openhcs connect`` joined."""
        self.plate: int | None = None
        """Id of the plate that cells take when they name none."""
        self._selected: dict[tuple[str, int], tuple[str, ...]] = {}

    def joined(self) -> Repository:
        """Return the repository; the default one is joined if there is none yet."""
        if self.repository is None:
            from openhcs_jupyter.repository import connect

            self.repository = connect()
        return self.repository

    def select(self, plate: Plate, wells: tuple[str, ...]) -> None:
        """Remember which wells of a plate are selected."""
        self._selected[plate.repository, plate.id] = wells

    def selected(self, plate: Plate) -> tuple[str, ...]:
        """Return the wells of a plate that are selected in its plate view.

        Raises
        ------
        UsageError
            If none are.
        """
        wells = self._selected.get((plate.repository, plate.id), ())
        if not wells:
            raise UsageError(
                f"No wells of plate {plate.name!r} are selected",
                f"Select some in plate_view({plate.id}), or name them.",
            )
        return wells


session = Session()


def is_watched(shell: Any = None) -> bool:
    """Tell whether a person sees outputs change: not so under nbconvert, papermill, or in a terminal.

    A front end with a person allows input; batch clients do not. ``OPENHCS_BATCH=1`` decides it for text, ``0`` for
    widgets.

    Parameters
    ----------
    shell
        The IPython shell; left out, the one that is running.
    """
    wish = os.environ.get("OPENHCS_BATCH")
    if wish is not None:
        return wish in ("", "0")
    if shell is None:
        from IPython.core.getipython import get_ipython

        shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    return bool(getattr(kernel, "_allow_stdin", False))


def widget_view(widget: Any) -> dict[str, Any]:
    """Return the form by MIME type in which a front end that shows widgets finds one."""
    return {WIDGET_TYPE: {"version_major": 2, "version_minor": 1, "model_id": widget.model_id}}
