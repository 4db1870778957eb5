"""The images of a unit between its steps: stacks along z, regrouped when a step wants them along another component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from openhcs_jupyter.engine.devices.base import Held, closed, on_host, stacked
from openhcs_jupyter.engine.devices.base import Pixels as Pixels
from openhcs_jupyter.model import Component

Key = tuple[int, int, str]
"""Field number, time point, channel. The field number is 0 once the fields of a well are joined."""


class Stack(NamedTuple):
    """Planes of one field, time point and channel along z."""

    array: Held
    """``(N, Y, X)``, in the memory of the machine or on a device."""
    slices: tuple[int, ...]
    """The z of each plane; counted anew from 0 where a step changed their number."""


class Site(NamedTuple):
    """Where a call of a step's function stands; None for the component along which its stack runs."""

    field: int | None
    t: int | None
    channel: str | None
    z: int | None
    """Position in the stack along z, not its slice."""


class Images:
    """The images of a unit.

    Parameters
    ----------
    fields
        Numbers of the unit's fields.
    size_t
        Time points.
    load
        By channel: reads the stack of a field and time point.
    """

    def __init__(self, fields: tuple[int, ...], size_t: int, load: Mapping[str, Callable[[int, int], Stack]]) -> None:
        self.fields = fields
        self.times = tuple(range(size_t))
        self.channels = tuple(load)
        self.changed: set[Key] = set()
        """Stacks that are no longer as they were loaded."""
        self._load = dict(load)
        self._stacks: dict[Key, Stack] = {}

    def get(self, field: int, t: int, channel: str) -> Stack:
        """Return a stack along z; reads it when it is asked for the first time."""
        stack = self._stacks.get((field, t, channel))
        if stack is None:
            stack = self._load[channel](field, t)
            closed(stack.array)
            self._stacks[field, t, channel] = stack
        return stack

    def drop(self, field: int, t: int, channel: str) -> None:
        """Forget a stack that no later step takes."""
        self._stacks.pop((field, t, channel), None)

    def bring_down(self, key: Key) -> None:
        """Move a stack into the memory of the machine."""
        stack = self._stacks.get(key)
        if stack is not None:
            self._stacks[key] = Stack(on_host(stack.array), stack.slices)

    def put(self, field: int, t: int, channel: str, array: Held) -> None:
        """Replace a stack along z by what a step made of it."""
        old = self._stacks.get((field, t, channel))
        if old is None or old.array is not array:
            self.changed.add((field, t, channel))
        slices = old.slices if old and len(old.slices) == len(array) else tuple(range(len(array)))
        self._stacks[field, t, channel] = Stack(array, slices)

    def keys(self, channels: tuple[str, ...]) -> Iterator[Key]:
        """Iterate over the stacks along z of some channels."""
        for field in self.fields:
            for t in self.times:
                for channel in channels:
                    yield field, t, channel

    def stacks(self, along: Component, channels: tuple[str, ...]) -> Iterator[tuple[Site, Held]]:
        """Iterate over stacks along channels, fields or time points, one for each combination of the others."""
        for others in self._others(along, channels):
            keys = self._along(along, others, channels)
            for z in range(self._depth(keys)):
                planes = [self.get(*key).array[z] for key in keys]
                _require_alike(along, keys, planes)
                joined = stacked(planes)
                closed(joined)
                yield self._site(along, others, z), joined

    def replace(
        self, along: Component, channels: tuple[str, ...], after: tuple[str, ...], results: Mapping[Site, Held]
    ) -> None:
        """Put back what a step made of the stacks along a component.

        Parameters
        ----------
        along
            The component.
        channels
            Channels that the step took.
        after
            All channels after the step.
        results
            By the site of the call: ``(M, Y, X)``, of one M.
        """
        made = len(next(iter(results.values())))
        put: dict[Key, list[Held]] = {}
        joined_fields = along == "field" and made == 1 and len(self.fields) > 1
        joined_times = along == "t" and made == 1
        new = tuple(name for name in after if name in channels) or after[-1:]
        for site, array in results.items():
            for position, plane in enumerate(array):
                if along == "channel":
                    key = (site.field or 0, site.t or 0, new[position])
                elif along == "field":
                    key = (0 if joined_fields else self.fields[position], site.t or 0, site.channel or "")
                else:
                    key = (site.field or 0, position, site.channel or "")
                put.setdefault(key, []).append(plane)
        if along == "channel":
            for key in list(self._stacks):
                if key[2] not in after:
                    del self._stacks[key]
            self.channels = after
        if joined_fields:
            self.fields = (0,)
            self._stacks.clear()
        if joined_times:
            self.times = (0,)
            for key in [key for key in self._stacks if key[1] > 0]:
                del self._stacks[key]
        self.changed &= self._stacks.keys()
        for key, planes in put.items():
            self.put(*key, stacked(planes))

    def _others(self, along: Component, channels: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
        fields = (0,) if along == "field" else self.fields
        times = (0,) if along == "t" else self.times
        names = ("",) if along == "channel" else channels
        return ((field, t, name) for field in fields for t in times for name in names)

    def _along(self, along: Component, others: Key, channels: tuple[str, ...]) -> list[Key]:
        field, t, channel = others
        if along == "channel":
            return [(field, t, name) for name in channels]
        if along == "field":
            return [(number, t, channel) for number in self.fields]
        return [(field, time, channel) for time in self.times]

    def _depth(self, keys: list[Key]) -> int:
        depths = {len(self.get(*key).array) for key in keys}
        if len(depths) > 1:
            told = ", ".join(f"{key[2]} {len(self.get(*key).array)}" for key in keys)
            raise ValueError(f"the stacks have different numbers of slices ({told}); project along z first")
        return depths.pop()

    def _site(self, along: Component, others: Key, z: int) -> Site:
        field, t, channel = others
        return Site(
            None if along == "field" else field,
            None if along == "t" else t,
            None if along == "channel" else channel,
            z,
        )


def _require_alike(along: Component, keys: Sequence[Key], planes: Sequence[Held]) -> None:
    """Refuse to stack planes of different sizes; types are joined as NumPy does."""
    if len({plane.shape for plane in planes}) < 2:
        return
    number = {"field": 0, "t": 1, "channel": 2}[along]
    sizes = {f"{along} {key[number]}": plane.shape for key, plane in zip(keys, planes, strict=True)}
    told = "; ".join(f"{what} has {shape[0]} x {shape[1]}" for what, shape in list(sizes.items())[:4])
    raise ValueError(f"images of different sizes cannot be taken together along {along}: {told}")
