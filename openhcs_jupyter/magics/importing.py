"""Registers a plate in place and shows how far it is."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.magics.views.render import ORANGE, Rendered, bar, card, details, escape, size_text, some, strong

if TYPE_CHECKING:
    import argparse

    from openhcs_jupyter.model import PlateSummary
    from openhcs_jupyter.repository import Repository

Progress: TypeAlias = Callable[[int, int], None]

_LIVE_INTERVAL_S, _LINE_INTERVAL_S = 0.25, 10.0
_SHOWN = 8


def register(repository: Repository, arguments: argparse.Namespace, progress: Progress | None = None) -> PlateSummary:
    """Register the plate that the words behind `import` name, see `options.add_import_options`.

    Raises
    ------
    UsageError
        If the repository takes no folders, or an option does not fit.
    RepositoryError
        If no plate is recognised in the folder.
    """
    from openhcs_jupyter.repository.embedded import EmbeddedRepository

    if not isinstance(repository, EmbeddedRepository):
        raise UsageError(f"{repository.uri} takes no folders", "Connect a folder: %openhcs connect default.")
    return repository.import_plate(
        arguments.folder,
        name=arguments.name,
        progress=progress,
        reader=arguments.format,
        pattern=arguments.pattern,
    )


def imported_view(plate: PlateSummary) -> Rendered:
    """Say what was recognised, and what is amiss."""
    sentence = (
        f"Plate {plate.id}, {plate.name}: {plate.format}, {plate.wells} wells, {plate.fields} fields, "
        f"{plate.planes:,} planes of {some(plate.channels)}, {size_text(plate.bytes)}; registered in place."
    )
    text = [sentence, *(f"  ! {problem}" for problem in plate.problems[:_SHOWN])]
    body = [
        f'<div><span style="color:{ORANGE}">!</span> {escape(problem)}</div>' for problem in plate.problems[:_SHOWN]
    ]
    rest = plate.problems[_SHOWN:]
    if rest:
        text.append(f"  ! and {len(rest)} more")
        body.append(details(f"and {len(rest)} more", "".join(f"<div>{escape(problem)}</div>" for problem in rest)))
    title, _, told = sentence.partition(":")
    return Rendered("\n".join(text), card(f"{strong(title)}:{escape(told)}", body))


class ImportLines:
    """Says in lines how far something long is, from its tenth second on.

    Parameters
    ----------
    what
        That is being done.
    write
        Takes one line.
    """

    def __init__(self, what: str, write: Callable[[str], object] | None = None) -> None:
        self._what = what
        self._write = write
        self._due = time.monotonic() + _LINE_INTERVAL_S

    def __call__(self, done: int, total: int) -> None:
        """Take in how much is done, and how much there is."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _LINE_INTERVAL_S
            line = f"{self._what}: {done:,} of {total:,}\n"
            (self._write or sys.stdout.write)(line)
            sys.stdout.flush()


class ImportBar:
    """Shows in a notebook how far something long is; a bar that is redrawn in place.

    Parameters
    ----------
    what
        That is being done.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._due = time.monotonic() + _LIVE_INTERVAL_S
        self._handle: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Take in how much is done, and how much there is."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _LIVE_INTERVAL_S
            text = f"{self._what}: {done:,} of {total:,}"
            self.show(Rendered(text, card(escape(self._what), [bar("", total, done, 0, 0, 0)])))

    def show(self, rendered: Rendered) -> None:
        """Show a value in the bar's place."""
        from IPython.display import display

        if self._handle is None:
            self._handle = display(rendered.bundle(), raw=True, display_id=True)
        else:
            self._handle.update(rendered.bundle(), raw=True)
