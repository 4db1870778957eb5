"""Registers a plate in place and shows how far it is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.render import Rendered, bar, card, details, escape, size_text, some, strong

if TYPE_CHECKING:
    from openhcs_jupyter.model import PlateSummary
    from openhcs_jupyter.repository import Repository

_LIVE_INTERVAL_S, _LINE_INTERVAL_S = 0.25, 10.0


def register(repository: Repository, folder: str, name: str | None, progress: _Shown | None = None) -> PlateSummary:
    """Register the plate in a folder.

    Raises
    ------
    UsageError
        If the repository takes no folders.
    RepositoryError
        If no plate is recognised in the folder.
    """
    from openhcs_jupyter.repository.embedded import EmbeddedRepository
    from openhcs_jupyter.repository.embedded.importing import import_plate

    if not isinstance(repository, EmbeddedRepository):
        raise UsageError(f"{repository.uri} takes no folders", "Connect a folder: %openhcs connect default.")
    return import_plate(repository, folder, name=name, progress=progress)


def import_shown(repository: Repository, folder: str, name: str | None, *, live: bool) -> PlateSummary:
    """Register the plate in a folder, show how far it is, and what was recognised.

    Parameters
    ----------
    repository
        Where it is registered.
    folder
        Of the plate.
    name
        Of the plate; None leaves it to its files.
    live
        Redraw a bar in place, rather than write lines.
    """
    from IPython.display import display

    shown = _Shown(folder, live=live)
    summary = register(repository, folder, name, shown)
    rendered = imported_view(summary)
    if shown.handle is not None:
        shown.handle.update(rendered.bundle(), raw=True)  # type: ignore[attr-defined]
    else:
        display(rendered.bundle(), raw=True)
    return summary


def imported_view(plate: PlateSummary) -> Rendered:
    """Say what was recognised, and what is amiss."""
    sentence = (
        f"Plate {plate.id}, {plate.name}: {plate.format}, {plate.wells} wells, {plate.fields} fields, "
        f"{plate.planes:,} planes of {some(plate.channels)}, {size_text(plate.bytes)}; registered in place."
    )
    text = [sentence, *(f"  ! {problem}" for problem in plate.problems[:8])]
    if len(plate.problems) > 8:
        text.append(f"  ! and {len(plate.problems) - 8} more")
    body = []
    if plate.problems:
        listed = "".join(f"<div>{escape(problem)}</div>" for problem in plate.problems)
        head = f"{len(plate.problems)} remarks" if len(plate.problems) > 1 else "1 remark"
        body.append(details(head, f'<div style="font-size:12px">{listed}</div>'))
    head_text, _, rest = sentence.partition(":")
    return Rendered("\n".join(text), card(f"{strong(head_text)}:{escape(rest)}", body))


class _Shown:
    """How many files are read: a bar in the notebook, or lines."""

    def __init__(self, folder: str, *, live: bool) -> None:
        self._folder = folder
        self._live = live
        self._due = time.monotonic() + (_LIVE_INTERVAL_S if live else _LINE_INTERVAL_S)
        self.handle: object | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + (_LIVE_INTERVAL_S if self._live else _LINE_INTERVAL_S)
        text = f"Reading {self._folder}: {done:,} of {total:,} files"
        if not self._live:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            return
        from IPython.display import display

        bundle = Rendered(text, card(escape(text), [bar("files", total, done, 0, 0, 8)])).bundle()
        if self.handle is None:
            self.handle = display(bundle, raw=True, display_id=True)
        else:
            self.handle.update(bundle, raw=True)  # type: ignore[attr-defined]
