"""What the commands share: how they are added, what they say, and the repository that they join."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from openhcs_jupyter.magics.views.render import Rendered
    from openhcs_jupyter.repository import Repository

Handler = Callable[[argparse.Namespace], int]
FAILED = 1
"""The exit code of what did not work."""


class Add(Protocol):
    """Adds a command."""

    def __call__(self, name: str, handler: Handler, text: str, *, repository: bool = False) -> argparse.ArgumentParser:
        """Return the command's parser, which takes its options; `repository` gives it ``--repository``."""


def connect(arguments: argparse.Namespace) -> Repository:
    """Join the repository that ``--repository`` names."""
    from openhcs_jupyter.magics.importing import ImportLines
    from openhcs_jupyter.repository import connect as join

    return join(arguments.repository, progress=ImportLines("Making the demo plate"))


def show(rendered: Rendered) -> int:
    """Write something that is shown as a card in a notebook; returns the exit code."""
    say(rendered.text)
    return 0


def say(line: str) -> None:
    """Write a line at once."""
    write(f"{line}\n")


def write(text: str) -> None:
    """Write a text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
