"""The images of a field, or of a joined well, as they stand between the steps of a pipeline."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from openhcs_jupyter.compiler.problems import Fault
from openhcs_jupyter.model import RECORDED, PixelGrid, Scope
from openhcs_jupyter.pipeline.chains import ALL


class ImageState(msgspec.Struct, frozen=True):
    """The images of a field, or of a well whose fields are joined, as they stand after a step."""

    channels: tuple[str, ...]
    slices: dict[str, tuple[int, ...] | int]
    """By channel: the z of its planes; the index of the step that changed them, where only running tells."""
    by_field: bool = True
    """The fields of a well are images of their own."""
    by_time: bool = True
    """So are the time points."""
    grids: dict[str, PixelGrid | None] = {}
    """By channel, of those whose pixels are not the recorded ones: how they lie over them; None: not known."""

    @property
    def scope(self) -> Scope:
        """Of what there is one image: a field, or a well."""
        return "field" if self.by_field else "well"

    def grid(self, channel: str) -> PixelGrid | None:
        """Return how a channel's pixels lie over the recorded ones; None where that is not known."""
        return self.grids.get(channel, RECORDED)

    def planes(self, channel: str) -> int | None:
        """Count a channel's planes along z; None where only running tells."""
        slices = self.slices[channel]
        return None if isinstance(slices, int) else len(slices)

    def after_z(self, step: int, channels: tuple[str, ...], depths: Mapping[str, str]) -> ImageState:
        """Return how they stand after a step that took stacks along z; `depths` says by channel what became of them."""
        slices = dict(self.slices)
        for name in channels:
            depth = depths[ALL if ALL in depths else name]
            if depth != "same":
                slices[name] = (0,) if depth == "one" else step
        return msgspec.structs.replace(self, slices=slices)

    def after_channels(
        self, step: str, channels: tuple[str, ...], depths: Mapping[str, str], fault: Fault
    ) -> ImageState:
        """Return how they stand after a step that took channels together; joined, they get the step's name."""
        if ALL not in depths:
            fault("a dict by channel cannot take its channels together", 'Use one function, or stack="z".')
        self._check_together(channels, fault)
        if depths.get(ALL) != "one" or not channels:
            return self
        rest = tuple(name for name in self.channels if name not in channels)
        if step in rest:
            fault(f"its result would be a second channel {step!r}", "Give the step a name=.")
        slices = {**self.slices, step: self.slices[channels[0]]}
        return msgspec.structs.replace(self, channels=(*rest, step), slices=slices)

    def _check_together(self, channels: tuple[str, ...], fault: Fault) -> None:
        """Check that channels have the same slices; single planes go together, whatever their slice."""
        known_slices = ((name, self.slices[name]) for name in channels)
        slices = {name: z for name, z in known_slices if not isinstance(z, int)}
        if len(set(slices.values())) < 2 or all(len(z) == 1 for z in slices.values()):
            return
        everywhere = sorted({z for some in slices.values() for z in some})
        for name, some in slices.items():
            lacking = [z for z in everywhere if z not in some]
            if lacking:
                fault(
                    f"takes channels together, but channel {name!r} has no plane at slice {lacking[0] + 1}",
                    "Project along z first, or name the channels with channel=[...].",
                )
