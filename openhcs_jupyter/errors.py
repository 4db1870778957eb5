"""Errors that name the thing at fault and say what to do."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class OpenHCSError(Exception):
    """The base of all errors that a user can mend.

    Parameters
    ----------
    message
        What is wrong; names the well, field, channel, step, file or option at fault.
    hint
        What to do about it.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class RepositoryError(OpenHCSError):
    """A repository, plate, image or file cannot be found or read."""


class UsageError(OpenHCSError):
    """An option, argument or setting is unknown or does not fit."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that keeps a pipeline from being compiled."""

    message: str
    hint: str | None = None
    line: int | None = None
    """Line in the cell or file, counted from 1."""
    step: str | None = None
    """Name of the step at fault."""


class CompileError(OpenHCSError):
    """A pipeline does not fit its plate or itself; holds every problem that was found."""

    def __init__(self, problems: Sequence[Problem], source_name: str = "<pipeline>") -> None:
        self.problems = tuple(problems)
        self.source_name = source_name
        count = len(self.problems)
        head = f"{count} problem{'s' if count > 1 else ''} in {source_name}"
        super().__init__("\n".join([head, *(_line(problem) for problem in self.problems)]))


class RunError(OpenHCSError):
    """A run has failed, or its results are not there."""


class RemoteError(OpenHCSError):
    """A machine cannot be reached, or lacks what a kernel needs."""


class StreamError(OpenHCSError):
    """What a viewer asked for is not there, or a connection cannot be made."""


class ServerError(OpenHCSError):
    """An execution server cannot be reached, or refuses what it is asked.

    Parameters
    ----------
    message, hint
        As of all errors.
    kind
        Why it refuses, in the protocol's word; empty where it has not answered.
    """

    def __init__(self, message: str, hint: str | None = None, *, kind: str = "") -> None:
        super().__init__(message, hint)
        self.kind = kind


def _line(problem: Problem) -> str:
    where = f"line {problem.line}: " if problem.line else ""
    hint = f"\n    {problem.hint}" if problem.hint else ""
    return f"  {where}{problem.message}{hint}"
