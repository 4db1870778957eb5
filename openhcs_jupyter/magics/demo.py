"""The options of ``openhcs-jupyter demo-plate``, and the plate that they ask for."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate

_FORMATS = {6: (2, 3), 12: (3, 4), 24: (4, 6), 48: (6, 8), 96: (8, 12), 384: (16, 24), 1536: (32, 48)}


def add_demo_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a synthetic plate is made of; those left out are the demo's."""
    parser.add_argument("folder", metavar="FOLDER", help="is made; must be new or empty")
    parser.add_argument("--name", help="of the plate; left out, the folder's")
    parser.add_argument("--wells", metavar="WELLS", help="96, 384, or rows x columns such as 2x6")
    parser.add_argument("--fields", metavar="FIELDS", help="a number, or rows x columns such as 2x2")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="height and width of a field")
    parser.add_argument("--z", dest="slices", type=int, metavar="SLICES", help="z slices")
    parser.add_argument("--cells", dest="cells_per_field", type=int, metavar="CELLS", help="cells in a field")
    parser.add_argument("--overlap", type=float, metavar="PART", help="of a field's side, shared with its neighbour")
    parser.add_argument("--neurites", type=int, metavar="COUNT", help="neurites of each cell, in GFP")
    parser.add_argument(
        "--stage-error", dest="stage_error_px", type=float, metavar="PIXELS", help="of the stage positions"
    )
    parser.add_argument("--seed", type=int, help="the same seed makes the same plate")


def demo_spec(arguments: argparse.Namespace) -> SyntheticPlate:
    """Return what the options of `add_demo_options` ask for.

    Raises
    ------
    UsageError
        If a value does not fit.
    """
    import msgspec

    from openhcs_jupyter.repository.embedded.synthetic import DEMO

    given = ("size", "slices", "cells_per_field", "overlap", "neurites", "stage_error_px", "seed")
    changes = {name: value for name in given if (value := getattr(arguments, name)) is not None}
    if "size" in changes and "cells_per_field" not in changes:
        # As dense as the demo.
        changes["cells_per_field"] = max(1, round(DEMO.cells_per_field * (changes["size"] / DEMO.size) ** 2))
    if arguments.wells:
        changes["rows"], changes["columns"] = _grid(arguments.wells, "--wells", _FORMATS.get)
    if arguments.fields:
        changes["grid"] = _grid(arguments.fields, "--fields", _nearly_square)
    name = arguments.name or re.sub(r"[^\w. -]", "-", Path(arguments.folder).name) or DEMO.name
    return msgspec.structs.replace(DEMO, name=name.replace("_", "-"), **changes)


def _grid(text: str, option: str, shape: Callable[[int], tuple[int, int] | None]) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})(?:\s*[xX]\s*(\d{1,4}))?", text.strip())
    if match is not None and match[2]:
        return int(match[1]), int(match[2])
    found = shape(int(match[1])) if match is not None else None
    if found is None:
        known = f"{', '.join(map(str, _FORMATS))}, or " if option == "--wells" else "A number, or "
        raise UsageError(f"{option} {text}: cannot be laid out", f"{known}rows x columns such as 2x6.")
    return found


def _nearly_square(count: int) -> tuple[int, int] | None:
    rows = next((rows for rows in range(math.isqrt(count), 0, -1) if count % rows == 0), None)
    return (rows, count // rows) if rows else None
