"""Reads which wells, fields and channels a user means: ``A01:B12``, ``row:A``, ``col:01-06``, ``1-4``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.model import Plate, parse_well, well_name

_FORMS = "Wells are written A01,B02 or A01:B12 (a block), row:A, row:A-C, col:3, col:01-06, with commas between."


def parse_wells(text: str, plate: Plate) -> tuple[str, ...]:
    """List the wells that a user names, by row and column.

    A block, row or column takes those of its wells that the plate has. A well that is named alone is taken as it is,
    so that the compiler tells of one that is not there together with everything else.

    Parameters
    ----------
    text
        Wells, blocks, rows and columns with commas between, such as ``A01,C03:D06,row:F,col:01-02``.
    plate
        The plate whose wells are meant.

    Raises
    ------
    UsageError
        If a part cannot be read, or a block, row or column takes no well of the plate.
    """
    there = {(well.row, well.column) for well in plate.wells}
    chosen: set[tuple[int, int]] = set()
    for part in _parts(text, "--wells"):
        cells = set(_cells(part, plate))
        if ":" in part:
            cells &= there
        if not cells:
            wells = _few([well.name for well in plate.wells])
            raise UsageError(f"--wells {part}: takes no well of plate {plate.name!r}", f"It has {wells}.")
        chosen |= cells
    return tuple(well_name(row, column) for row, column in sorted(chosen))


def parse_fields(text: str) -> tuple[int, ...]:
    """List the field numbers that a user names: ``1,3`` or ``1-4``.

    Raises
    ------
    UsageError
        If a part is not a number or a range of numbers, counted from 1.
    """
    chosen: set[int] = set()
    for part in _parts(text, "--fields"):
        match = re.fullmatch(r"(\d{1,6})(?:\s*[-:]\s*(\d{1,6}))?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if first < 1 or last < first:
            raise UsageError(f"--fields {part}: not a field or range of fields", "Fields are written 1,2 or 1-4.")
        chosen.update(range(first, last + 1))
    return tuple(sorted(chosen))


def parse_channels(text: str) -> tuple[str, ...]:
    """List the channel names that a user writes with commas between, each once and in their order."""
    return tuple(dict.fromkeys(_parts(text, "--channels")))


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option} is empty", f"Leave {option} out to take all.")
    return parts


def _cells(part: str, plate: Plate) -> Iterator[tuple[int, int]]:
    axis, colon, spec = part.partition(":")
    if colon and axis.lower() in ("row", "col", "column"):
        is_row = axis.lower() == "row"
        first, dash, last = spec.partition("-")
        start = _index(first, is_row, part)
        end = _index(last, is_row, part) if dash else start
        lines = range(start, end + 1)
        others = range(plate.columns if is_row else plate.rows)
        yield from ((line, other) if is_row else (other, line) for line in lines for other in others)
        return
    try:
        row, column = parse_well(axis)
        last_row, last_column = parse_well(spec) if colon else (row, column)
    except ValueError:
        raise UsageError(f"--wells {part}: not a well", _FORMS) from None
    rows, columns = sorted((row, last_row)), sorted((column, last_column))
    yield from ((r, c) for r in range(rows[0], rows[1] + 1) for c in range(columns[0], columns[1] + 1))


def _index(text: str, is_row: bool, part: str) -> int:
    text = text.strip()
    if is_row != text.isalpha():
        text = ""
    try:
        return parse_well(f"{text}1")[0] if is_row else parse_well(f"A{text}")[1]
    except ValueError:
        raise UsageError(f"--wells {part}: not a {'row' if is_row else 'column'}", _FORMS) from None


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 12 else f"{len(names)} wells from {names[0]} to {names[-1]}"
