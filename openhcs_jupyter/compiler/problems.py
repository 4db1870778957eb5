"""Collects what is wrong with a pipeline, so that all of it is told at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from openhcs_jupyter.errors import CompileError, Problem
from openhcs_jupyter.pipeline import Step


class Problems:
    """The problems found so far.

    Parameters
    ----------
    source_name
        Where the pipeline was written.
    """

    def __init__(self, source_name: str) -> None:
        self._source_name = source_name
        self._found: dict[Problem, None] = {}

    def add(self, message: str, hint: str | None = None, step: Step | None = None) -> None:
        """Note one problem, with the line and name of the step at fault."""
        problem = Problem(
            message=message, hint=hint, line=step.line if step else None, step=step.name if step else None
        )
        self._found[problem] = None

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_if_any(self) -> None:
        """Raise a `CompileError` that holds all problems, in the order of their lines."""
        if self._found:
            raise CompileError(sorted(self._found, key=lambda problem: problem.line or 0), self._source_name)


class Fault(Protocol):
    """Notes what is wrong with the step that is being looked at."""

    def __call__(self, message: str, hint: str | None = None) -> None:
        """Note a problem, and what to do about it."""


def known(name: object, names: Iterable[str]) -> str:
    """Say which names there are and which of them is near to `name`."""
    import difflib  # nothing else here takes as long to import, and most runs have no problem

    names = list(names)
    lower = {other.lower(): other for other in reversed(names)}
    near = [lower[found] for found in difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.6)]
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    there = f"There are: {shown}." if names else "There are none."
    return f"Did you mean {near[0]!r}? {there}" if near else there
