"""Making sense of what microscopes write: numbers, names of channels, distances of slices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


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


def z_step(stacks: Iterable[Mapping[int, float]]) -> float | None:
    """Return the median distance of neighbouring slices, to the hundredth of a micrometre that stages repeat.

    Parameters
    ----------
    stacks
        Height in micrometres of each slice, by its number, one mapping a stack.
    """
    steps = sorted(abs(heights[z + 1] - heights[z]) for heights in stacks for z in heights if z + 1 in heights)
    return round(steps[len(steps) // 2], 2) or None if steps else None


def ranks(numbers: Iterable[int]) -> dict[int, int]:
    """Count the different numbers from 0, in order, whatever gaps they have."""
    return {number: rank for rank, number in enumerate(sorted(set(numbers)))}
