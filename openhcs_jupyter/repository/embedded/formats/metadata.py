"""Making sense of what microscopes write: numbers, times, names of channels, distances of slices."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from datetime import datetime

from openhcs_jupyter.model import Channel
from openhcs_jupyter.repository.embedded.formats.base import FieldPlace, FoundField


def whole(text: str | None) -> int | None:
    """Read a whole number, or None."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def real(text: str | None) -> float | None:
    """Read a finite number, or None."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and abs(value) < float("inf") else None


def positive(text: str | None) -> float | None:
    """Read a number above 0, or None."""
    value = real(text)
    return value if value is not None and value > 0 else None


_MARKED = re.compile(r"(.+) \(channel \d+\)")
_METRES = {
    "m": 1e6,
    "mm": 1e3,
    "um": 1.0,
    "\u00b5m": 1.0,
    "\u03bcm": 1.0,
    "nm": 1e-3,
    "cm": 1e4,
    "inch": 25400.0,
    "meter": 1e6,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "micrometer": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nanometer": 1e-3,
}
_SECONDS = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "min": 60.0, "h": 3600.0, "us": 1e-6}
_SECONDS |= {"second": 1.0, "millisecond": 1e-3, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


def micrometres(value: float | None, unit: str | None = None) -> float | None:
    """Turn a length into micrometres, which it is without a unit; None where the unit is unknown."""
    factor = _METRES.get(unit or "um")
    return round(value * factor, 6) if value is not None and factor is not None else None


def seconds(value: float | None, unit: str | None = None) -> float | None:
    """Turn a duration into seconds, which it is without a unit; None where the unit is unknown."""
    factor = _SECONDS.get(unit or "s")
    return round(value * factor, 6) if value is not None and factor is not None else None


def told_apart(names: Sequence[str], marks: Sequence[str], source: str) -> tuple[list[str], list[str]]:
    """Make the names of channels unique.

    Parameters
    ----------
    names
        As the microscope's user gave them; empty where there is none.
    marks
        What tells the channels apart in the files' names, such as ``C01``; the name of a channel that has none.
    source
        Which file named them.

    Returns
    -------
    names : list of str
        ``NAME (MARK)`` where several channels have one name.
    problems : list of str
        One for each name that several channels have.
    """
    names = [name.strip() or mark for name, mark in zip(names, marks, strict=True)]
    count = Counter(names)
    problems = [
        f"{source} names {times} channels {name!r}; they are told apart as "
        + ", ".join(f"{name} ({mark})" for one, mark in zip(names, marks, strict=True) if one == name)
        for name, times in count.items()
        if times > 1
    ]
    unique = [f"{name} ({mark})" if count[name] > 1 else name for name, mark in zip(names, marks, strict=True)]
    return unique, problems


def channel_marks(count: int) -> list[str]:
    """Return what tells the channels of an image apart that has no other names for them."""
    return [f"channel {number + 1}" for number in range(count)]


def joined_channels(images: Iterable[Sequence[Channel]]) -> tuple[dict[str, Channel], list[str]]:
    """Gather the channels of a plate whose images name their own: those of the first image, then what others add.

    Returns
    -------
    channels : dict
        By name.
    problems : list of str
        One for each name that several channels had, and one if the images differ.
    """
    channels: dict[str, Channel] = {}
    sets: Counter[tuple[str, ...]] = Counter()
    for image in images:
        sets[tuple(channel.name for channel in image)] += 1
        for channel in image:
            channels.setdefault(channel.name, channel)
    problems = [
        f"several channels have one name; they are told apart as {', '.join(names)}" for names in _alike(channels)
    ]
    if len(sets) > 1:
        told = "; ".join(f"{', '.join(names)} in {count}" for names, count in sets.most_common(3))
        problems.append(f"the images have different channels: {told}")
    return channels, problems


def _alike(channels: Iterable[str]) -> list[list[str]]:
    """Return the names that `told_apart` made of one, each time that it did so with `channel_marks`."""
    stems: dict[str, list[str]] = {}
    for name in channels:
        if (found := _MARKED.fullmatch(name)) is not None:
            stems.setdefault(found[1], []).append(name)
    return [names for names in stems.values() if len(names) > 1]


def z_step(stacks: Iterable[Mapping[int, float]]) -> float | None:
    """Return the median distance of neighbouring slices, to the hundredth of a micrometre that stages repeat.

    Parameters
    ----------
    stacks
        Height in micrometres of each slice, by its number, one mapping a stack.
    """
    steps = sorted(abs(heights[z + 1] - heights[z]) for heights in stacks for z in heights if z + 1 in heights)
    return round(steps[len(steps) // 2], 2) or None if steps else None


def moment(text: str | None) -> datetime | None:
    """Read a date and time of ISO 8601 or nearly so: ``20230221 10:41:58.061`` is taken, too. None where it is not."""
    try:
        return datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None


def fields_of(
    planes: Iterable[tuple[FieldPlace, tuple[float, float] | None, datetime | None]],
) -> dict[FieldPlace, FoundField]:
    """Gather where each field lies, as its first plane says, and when its earliest plane was recorded.

    Parameters
    ----------
    planes
        Of each: its field, the stage position in micrometres, and when it was recorded.
    """
    positions: dict[FieldPlace, tuple[float, float]] = {}
    times: dict[FieldPlace, datetime] = {}
    for place, position, at in planes:
        if position is not None:
            positions.setdefault(place, position)
        if at is not None and (place not in times or at.replace(tzinfo=None) < times[place].replace(tzinfo=None)):
            times[place] = at
    return {
        place: FoundField(
            position_um=positions.get(place), acquired=times[place].isoformat() if place in times else None
        )
        for place in positions.keys() | times.keys()
    }


def t_step(planes: Iterable[tuple[Hashable, int, datetime | None]]) -> float | None:
    """Return the median time in seconds from one time point to the next, to the millisecond.

    Parameters
    ----------
    planes
        What each plane is beside its time point, its time point, and when it was recorded.
    """
    series: dict[Hashable, dict[int, datetime]] = defaultdict(dict)
    for what, t, at in planes:
        if at is not None:
            series[what][t] = at.replace(tzinfo=None)
    steps = sorted(
        (times[t + 1] - times[t]).total_seconds() for times in series.values() for t in times if t + 1 in times
    )
    step = steps[len(steps) // 2] if steps else 0.0
    return round(step, 3) if step > 0 else None


def ranks(numbers: Iterable[int]) -> dict[int, int]:
    """Count the different numbers from 0, in order, whatever gaps they have."""
    return {number: rank for rank, number in enumerate(sorted(set(numbers)))}
