"""The sliders that all layers share: wells, fields, time points and slices of all runs that are shown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from openhcs_jupyter.model import parse_well
from openhcs_jupyter.streaming.layers import RunView

AXIS_LABELS = ("well", "field", "t", "z", "y", "x")


class Position(NamedTuple):
    """Where the sliders stand, as indices of `Axes`."""

    well: int = 0
    field: int = 0
    t: int = 0
    z: int = 0


class Axes(msgspec.Struct, frozen=True, kw_only=True):
    """The extents of the sliders. They grow when a run is added that reaches further, and never shrink."""

    wells: tuple[str, ...] = ()
    """Names, by row and column."""
    fields: tuple[int, ...] = ()
    """Numbers."""
    size_t: int = 1
    size_z: int = 1
    z_step_um: float | None = None
    """Of the first layer that tells one."""

    def joined(self, views: Iterable[RunView]) -> Axes:
        """Return the axes that also hold these runs."""
        wells, fields = set(self.wells), set(self.fields)
        size_t, size_z, step = self.size_t, self.size_z, self.z_step_um
        for view in views:
            wells |= {well.name for well in view.wells}
            fields |= set(view.fields)
            for layer in view.layers:
                size_t, size_z = max(size_t, layer.size_t), max(size_z, layer.size_z)
                step = step or layer.z_step_um
        return Axes(
            wells=tuple(sorted(wells, key=parse_well)),
            fields=tuple(sorted(fields)),
            size_t=size_t,
            size_z=size_z,
            z_step_um=step,
        )
