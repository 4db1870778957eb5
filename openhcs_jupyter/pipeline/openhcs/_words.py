"""What is read of OpenHCS's objects without importing OpenHCS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Fault(Exception):  # noqa: N818 - no error to a user: it is caught where it is raised
    """Why a step cannot be adapted."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def raw(holder: object, name: str) -> Any:
    """Read an attribute without what OpenHCS's lazy configurations do when they are asked; None where it is not."""
    if isinstance(holder, Mapping):
        return holder.get(name)
    try:
        return object.__getattribute__(holder, name)
    except AttributeError:
        return None


def word(value: object) -> str:
    """Return what a member of an enum, a name of one, or a text says, in small letters."""
    if isinstance(value, str) and not hasattr(value, "name"):
        return value.rpartition(".")[2].lower()
    return str(getattr(value, "name", value)).lower()
