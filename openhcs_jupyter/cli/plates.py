"""``openhcs-jupyter`` for plates: import, demo-plate, plates."""

from __future__ import annotations

import argparse
from pathlib import Path

from openhcs_jupyter.cli.terminal import Add, connect, say, show
from openhcs_jupyter.magics.demo import add_demo_options
from openhcs_jupyter.magics.options import add_import_options


def add_commands(add: Add) -> None:
    """Add these commands."""
    import_ = add("import", _import, "Register a plate where it lies; no pixel is copied.", repository=True)
    add_import_options(import_)
    demo = add("demo-plate", _demo_plate, "Make a synthetic plate with known truth.")
    add_demo_options(demo)
    add("plates", _plates, "List the plates.", repository=True)


def _import(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.importing import ImportLines, imported_view, register

    with connect(arguments) as repository:
        plate = register(repository, arguments, ImportLines(f"Reading {arguments.folder}"))
    return show(imported_view(plate))


def _demo_plate(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.demo import demo_spec
    from openhcs_jupyter.magics.importing import ImportLines
    from openhcs_jupyter.magics.views.render import size_text
    from openhcs_jupyter.repository.embedded.synthetic import write_plate

    spec = demo_spec(arguments)
    folder = write_plate(Path(arguments.folder).expanduser(), spec, ImportLines("Fields written"))
    fields = len(spec.wells) * spec.fields
    say(f"{folder}: {len(spec.wells)} wells, {fields:,} fields, {size_text(spec.pixel_bytes)}; its truth is in truth/")
    say(f"Register it: openhcs-jupyter import {folder}")
    return 0


def _plates(arguments: argparse.Namespace) -> int:
    from openhcs_jupyter.magics.views.plates import plates_view

    with connect(arguments) as repository:
        return show(plates_view(repository.plates(), repository.uri))
