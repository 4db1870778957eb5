"""What a step's function returns beside its image, under the name by which later steps and results know it."""

from __future__ import annotations

from typing import Literal

import msgspec

OutputKind = Literal["labels", "table", "points", "image"]


class Output(msgspec.Struct, frozen=True):
    """The base of all outputs."""

    name: str
    """Unique within the pipeline."""

    @property
    def kind(self) -> OutputKind:
        """What the output is: labels, table, points or image."""
        raise NotImplementedError


class Labels(Output, frozen=True):
    """A label image: integers ``(N, Y, X)`` or ``(Y, X)``, 0 is background."""

    @property
    def kind(self) -> OutputKind:
        """What the output is."""
        return "labels"


class Table(Output, frozen=True):
    """A table: a pandas ``DataFrame``, or a mapping of column names to values; plate, well and field are added."""

    @property
    def kind(self) -> OutputKind:
        """What the output is."""
        return "table"


class Points(Output, frozen=True):
    """Points: a ``DataFrame`` with columns ``y`` and ``x`` in pixels and any others."""

    @property
    def kind(self) -> OutputKind:
        """What the output is."""
        return "points"


class ImageOutput(Output, frozen=True):
    """An image beside the step's own: ``(N, Y, X)`` or ``(Y, X)``."""

    @property
    def kind(self) -> OutputKind:
        """What the output is."""
        return "image"
