"""The cell of a run, made again from its provenance."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from openhcs_jupyter import __version__
from openhcs_jupyter.errors import RepositoryError, RunError
from openhcs_jupyter.model import RunRecord
from openhcs_jupyter.repository import Trace

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run
    from openhcs_jupyter.repository import Repository

_APART = {"name", "plate", "wells", "save"}
_NOT_OF_THE_RESULT = {"view", "dry_run", "resume", "force", "background", "quiet", "help", "server", "priority"}
_SHOWN = 6


def find_kept(name: str | None, find: Callable[[str | None], Run], repository: Repository) -> Trace:
    """Return what is kept of a run, or of the run that made something in the repository.

    Parameters
    ----------
    name
        A variable, name or id of a run, or an id, name or link of what it made; None is the last run.
    find
        Finds a run of this machine.
    repository
        Knows the runs that saved something in it, also those of other machines.

    Raises
    ------
    RunError
        If there is no such run.
    """
    try:
        run = find(name)
    except RunError:
        kept = repository.trace(name) if name is not None else None
        if kept is None:
            raise
        return kept
    return Trace(record=run.record, plan=run.plan.to_json())


def replay_cell(kept: Trace, repository: Repository) -> str:
    """Write a ``%%openhcs`` cell that makes a run's results again, from what was kept of the run.

    Comments in it say what is not as it was: versions of packages, images, what the cell took from others.

    Raises
    ------
    RunError
        If the run was not defined by a text.
    """
    record = kept.record
    if not record.source:
        raise RunError(f"Run {record.name} ({record.id}) was started by a program, not by a cell or a file.")
    body = record.script or record.source
    if not record.script and body.startswith("%%openhcs"):
        body = body.partition("\n")[2]
    notes = [f"Made again from run {record.id} of {record.started[:16].replace('T', ' ')}, plate {record.plate_name}."]
    notes += _changes(record, repository)
    if kept.others:
        notes.append(f"Other runs of it, which %openhcs replay takes as well: {', '.join(kept.others[:_SHOWN])}.")
    if record.unsaid:
        names = ", ".join(f"{name} ({what})" for name, what in record.unsaid.items())
        notes.append(f"Before it is run there must be, as it was: {names}.")
    lines = [
        f"%%openhcs {' '.join(_options(kept, repository))}",
        *(f"# {note}" for note in notes),
        "",
        body.strip("\n"),
        "",
    ]
    return "\n".join(lines)


def _options(kept: Trace, repository: Repository) -> Iterator[str]:
    from openhcs_jupyter.compiler import ExecutionPlan

    record, plan = kept.record, ExecutionPlan.from_json(kept.plan)
    plate = repository.cell_name(record.plate_id, record.options.get("plate"))
    yield from (record.name, "--plate", shlex.quote(plate))
    if record.options.get("wells"):
        # As they were taken, whatever is chosen on a plate map by now.
        yield from ("--wells", ",".join(dict.fromkeys(unit.well for unit in plan.units if unit.well)))
    for name, value in record.options.items():
        option = f"--{name.replace('_', '-')}"
        if name in _APART | _NOT_OF_THE_RESULT or value is None or value is False:
            continue
        yield from (option,) if value is True else (option, shlex.quote(str(value)))
    yield "--save" if plan.save else "--no-save"


def _changes(record: RunRecord, repository: Repository) -> Iterator[str]:
    for name, version in record.versions.items():
        now = _version(name)
        if (now or "unknown") != version:
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
