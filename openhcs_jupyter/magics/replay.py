"""The cell of a run, made again from its provenance."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from openhcs_jupyter import __version__
from openhcs_jupyter.errors import RepositoryError, RunError

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.repository import Repository

_APART = {"name", "plate", "wells", "save"}
_NOT_OF_THE_RESULT = {"view", "dry_run", "resume", "force", "background", "quiet", "help"}
_SHOWN = 6


def replay_cell(run: Run, repository: Repository) -> str:
    """Write a ``%%openhcs`` cell that makes a run's results again, from what was kept of the run.

    Comments in it say what is not as it was: versions of packages, images, what the cell took from others.

    Raises
    ------
    RunError
        If the run was not defined by a text.
    """
    record = run.record
    if not record.source:
        raise RunError(f"Run {run.name} ({run.id}) was started by a program, not by a cell or a file.")
    body = record.script or record.source
    if not record.script and body.startswith("%%openhcs"):
        body = body.partition("\n")[2]
    notes = [f"Made again from run {run.id} of {record.started[:16].replace('T', ' ')}, plate {record.plate_name}."]
    notes += _changes(run, repository)
    if record.unsaid:
        names = ", ".join(f"{name} ({what})" for name, what in record.unsaid.items())
        notes.append(f"Before it is run there must be, as it was: {names}.")
    lines = [f"%%openhcs {' '.join(_options(run))}", *(f"# {note}" for note in notes), "", body.strip("\n"), ""]
    return "\n".join(lines)


def _options(run: Run) -> Iterator[str]:
    record, plan = run.record, run.plan
    yield from (run.name, "--plate", str(record.plate_id))
    if record.options.get("wells"):
        # As they were taken, whatever is chosen on a plate map by now.
        yield from ("--wells", ",".join(dict.fromkeys(unit.well for unit in plan.units if unit.well)))
    for name, value in record.options.items():
        option = f"--{name.replace('_', '-')}"
        if name in _APART | _NOT_OF_THE_RESULT or value is None or value is False:
            continue
        yield from (option,) if value is True else (option, shlex.quote(str(value)))
    yield "--save" if plan.save else "--no-save"


def _changes(run: Run, repository: Repository) -> Iterator[str]:
    record = run.record
    for name, version in record.versions.items():
        now = _version(name)
        if now != version:
            yield f"{name} was {version} and is {now or 'missing'} now."
    try:
        plate = repository.plate(record.plate_id)
    except RepositoryError:
        yield f"Plate {record.plate_id} is not in {repository.uri}."
        return
    versions = {image.id: image.version for _, field in plate.fields() for image in field.images}
    changed = [image for image, version in record.inputs.items() if versions.get(image) != version]
    if changed:
        shown = ", ".join(map(str, changed[:_SHOWN])) + (" ..." if len(changed) > _SHOWN else "")
        yield f"{len(changed)} of {len(record.inputs)} images are not as they were: {shown}."


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    if name == "openhcs-jupyter":
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
