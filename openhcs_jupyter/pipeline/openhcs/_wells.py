"""Reads OpenHCS's well filters."""

from __future__ import annotations

from collections.abc import Sequence

from openhcs_jupyter.model import Plate, parse_well, well_name
from openhcs_jupyter.pipeline.openhcs._words import Fault, raw, word

_FORMS = 'Wells are written ["A01", "B02"], "A01", "A01:A12", "row:A", "col:01-06", or as a count.'


def filtered(config: object, plate: Plate) -> tuple[str, ...] | None:
    """Return the wells that a filter takes, in the plate's order; None where there is no filter.

    Parameters
    ----------
    config
        Has ``well_filter``: a list of wells; a text with wells, ranges such as ``A01:A12`` (row by row through the
        plate's wells), ``row:A`` or ``col:01-06``; or a count of the first wells. And ``well_filter_mode``.
    plate
        The plate whose wells are meant.

    Raises
    ------
    Fault
        If the filter cannot be read, names a well that is not there, or takes none.
    """
    said = raw(config, "well_filter")
    if said is None:
        return None
    there = [well.name for well in plate.wells]
    exclude = word(raw(config, "well_filter_mode")) == "exclude"
    found = _matched(said, plate, there, strict=not exclude)
    wells = tuple(well for well in there if (well in found) != exclude)
    if not wells:
        raise Fault(f"its well filter {said!r} takes no well", _FORMS)
    return wells


def narrowed(outer: tuple[str, ...] | None, inner: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return the wells that both of two filters take.

    Raises
    ------
    Fault
        If there is none.
    """
    if outer is None or inner is None:
        return outer if inner is None else inner
    both = tuple(well for well in inner if well in outer)
    if not both:
        raise Fault("its well filter takes none of the wells that its pipeline takes", _FORMS)
    return both


def some(wells: Sequence[str] | None) -> str:
    """Name wells, not too many of them."""
    if wells is None:
        return "all wells"
    return ", ".join(wells) if len(wells) <= 6 else f"{len(wells)} wells from {wells[0]} to {wells[-1]}"


def _matched(said: object, plate: Plate, there: Sequence[str], *, strict: bool) -> set[str]:
    if isinstance(said, str) and said.strip().isdecimal():
        said = int(said)
    if isinstance(said, int) and not isinstance(said, bool):
        if not 0 <= said <= len(there):
            raise Fault(f"its well filter takes {said} wells, and the plate has {len(there)}", _FORMS)
        return set(there[:said])
    if isinstance(said, list | tuple | set | frozenset):
        parts = [str(part) for part in said]
    elif isinstance(said, str):
        parts = said.split(",")
    else:
        raise Fault(f"its well filter is {said!r}", _FORMS)
    found: set[str] = set()
    for part in parts:
        found |= _part(part.strip(), plate, there, strict=strict)
    return found


def _part(part: str, plate: Plate, there: Sequence[str], *, strict: bool) -> set[str]:
    axis, colon, spec = part.partition(":")
    try:
        if colon and axis.strip().lower() in ("row", "col"):
            return _lines(spec, there, is_row=axis.strip().lower() == "row")
        ends = [well_name(*parse_well(end)) for end in (part.split(":") if colon else [part])]
    except ValueError:
        raise Fault(f"its well filter {part!r} cannot be read", _FORMS) from None
    lost = [well for well in ends if well not in there]
    if lost and (strict or colon):
        raise Fault(f"its well filter names {lost[0]}, in which plate {plate.name!r} has no images", _FORMS)
    if not colon:
        return set(ends) - set(lost)
    if len(ends) != 2:
        raise Fault(f"its well filter {part!r} cannot be read", _FORMS)
    first, last = sorted(there.index(well) for well in ends)
    return set(there[first : last + 1])


def _lines(spec: str, there: Sequence[str], *, is_row: bool) -> set[str]:
    """Find the wells of a row or column, or of a range of them."""
    first, _, last = (end.strip() for end in spec.partition("-"))
    ends = [parse_well(f"{end}1" if is_row else f"A{end}") for end in (first, last or first)]
    line = 0 if is_row else 1
    return {well for well in there if ends[0][line] <= parse_well(well)[line] <= ends[1][line]}
