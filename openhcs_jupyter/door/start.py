"""From steps and options to a running plan: the one way that cells, the command line and jobs share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from openhcs_jupyter.config import Settings, load_settings
from openhcs_jupyter.door.options import RunOptions
from openhcs_jupyter.door.places import parse_channels, parse_fields, parse_wells
from openhcs_jupyter.door.text import Script, Source
from openhcs_jupyter.errors import RepositoryError, UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.compiler import ExecutionPlan, Selection
    from openhcs_jupyter.engine import Executor, Run
    from openhcs_jupyter.model import Plate
    from openhcs_jupyter.pipeline import FunctionStep, Step
    from openhcs_jupyter.repository import Repository
    from openhcs_jupyter.topology import Topology

_SHOWN = 5
_HERE = ("localhost", "127.0.0.1", "::1")


def prepare(python: str, options: RunOptions) -> None:
    """Start the process that forks workers; it imports what a text imports, while the text is executed and compiled."""
    from openhcs_jupyter.engine import fork_server
    from openhcs_jupyter.engine.needed import imported_by

    if not (options.dry_run or _scheduler(options, load_settings())):
        fork_server().start(imported_by(python))


def choose_plate(repository: Repository, options: RunOptions, chosen: int | None = None) -> Plate:
    """Return the plate that a run takes: the one that is named, else the chosen one, else the only one.

    Raises
    ------
    UsageError
        If none is named or chosen and there is not exactly one.
    RepositoryError
        If there is no such plate.
    """
    if options.plate is not None:
        if options.plate.startswith(("{", "$")):
            raise UsageError(f"--plate {options.plate}: there is no such variable", "Assign it in an earlier cell.")
        return repository.plate(int(options.plate) if options.plate.isdecimal() else options.plate)
    if chosen is not None:
        return repository.plate(chosen)
    plates = repository.plates()
    if not plates:
        raise UsageError("The repository has no plates", "Register one: %openhcs import FOLDER, or connect demo.")
    if len(plates) > 1:
        listed = ", ".join(f"{plate.id} ({plate.name})" for plate in plates[:8])
        raise UsageError("Several plates are there and none is chosen", f"Add --plate ID. There are: {listed}.")
    return repository.plate(plates[0].id)


def selection_of(options: RunOptions, plate: Plate) -> Selection:
    """Return what the options take of a plate.

    Raises
    ------
    UsageError
        If wells or fields cannot be read or are not there.
    """
    from openhcs_jupyter.compiler import Selection

    channels = parse_channels(options.channels) if options.channels else None
    wells = parse_wells(options.wells, plate) if options.wells else None
    fields = parse_fields(options.fields) if options.fields else None
    if options.preview is not None:
        wells = parse_wells(options.preview, plate)
        if len(wells) != 1:
            raise UsageError(f"--preview {options.preview}: takes one well", "Choose one, such as --preview A01.")
        well = plate.well(wells[0])
        fields = (well.fields[0].number,) if well is not None else None
    return Selection(
        wells=wells, fields=fields, channels=channels, source=options.source, skip_missing=options.skip_missing
    )


def plan_run(
    steps: Sequence[Step | FunctionStep],
    source: Source,
    plate: Plate,
    options: RunOptions,
    script: Script | None = None,
    topology: Topology | None = None,
) -> ExecutionPlan:
    """Compile the steps for a plate on this machine or on Dask.

    Parameters
    ----------
    steps
        From `define_steps`.
    source
        What defined them.
    plate
        To what they are done.
    options
        What of it, and how.
    script
        From `script_of`; becomes part of the provenance.
    topology
        What may be used; left out, all that is found.

    Raises
    ------
    CompileError
        With everything that is wrong.
    UsageError
        If the options do not fit the plate.
    RepositoryError
        If files of the plate have changed since it was imported.
    """
    from openhcs_jupyter.compiler import compile as compile_pipeline
    from openhcs_jupyter.compiler.plan import LeftOut
    from openhcs_jupyter.pipeline import Pipeline, adapt

    settings = load_settings()
    adapted = adapt(steps, plate, source.name)
    script = script or Script("", {})
    pipeline = Pipeline(adapted.steps, options.name, source.text, source.name, script.text, script.unsaid, adapted.view)
    plan = compile_pipeline(
        pipeline,
        plate,
        topology or _topology(_scheduler(options, settings)),
        _narrowed(selection_of(options, plate), adapted.wells),
        save=_save(options, settings),
        workers=options.workers or settings.workers or None,
        memory_bytes=int(settings.memory_gb * 1e9) or None,
        device=options.device,
    )
    _require_unchanged(plan)
    left_out = (*plan.left_out, *(LeftOut(what=what, why=why) for what, why in adapted.notes))
    return msgspec.structs.replace(plan, left_out=left_out).bind(pipeline, plate, plan.on_cpus)


def viewers_of(options: RunOptions, plan: ExecutionPlan) -> list[tuple[str, int] | None]:
    """List the viewers that options or steps ask for by host and port; None is the one that the settings name."""
    asked = dict.fromkeys((view.host, view.port) for view in plan.pipeline.view)
    elsewhere: list[tuple[str, int] | None] = [place for place in asked if place[0] not in _HERE]
    return [None, *elsewhere] if options.view or len(elsewhere) < len(asked) else elsewhere


def start(plan: ExecutionPlan, options: RunOptions, run_id: str | None = None) -> Run:
    """Start a plan; returns at once.

    Parameters
    ----------
    plan
        From `plan_run`.
    options
        How it is run.
    run_id
        Of the run; it goes on if it is there. Left out, one is made.
    """
    from openhcs_jupyter.engine import run

    return run(
        plan,
        _executor(plan, _scheduler(options, load_settings())),
        on_error=options.on_error,
        resume=options.resume,
        force=options.force,
        options=options.given(),
        run_id=run_id,
    )


def _require_unchanged(plan: ExecutionPlan) -> None:
    """Refuse to begin what would end in failed units, or would take kept results of what the files held before."""
    from openhcs_jupyter.repository import connect

    chosen = {image for unit in plan.units for image in unit.images}
    with connect(plan.repository) as repository:
        changed = repository.changed(
            [image for _, field in plan.plate.fields() for image in field.images if image.id in chosen]
        )
    if changed:
        more = f"\n  and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
        raise RepositoryError(
            f"Files of plate {plan.plate_name} are not as they were imported:\n  "
            + "\n  ".join(changed[:_SHOWN])
            + more,
            "Put them back, or import the plate's folder again; what the old files gave is not used again.",
        )


def _scheduler(options: RunOptions, settings: Settings) -> str:
    """Return where Dask is; empty where a run is done on this machine, as a preview always is."""
    return "" if options.preview is not None else options.scheduler or settings.scheduler


def _topology(scheduler: str) -> Topology:
    if not scheduler:
        from openhcs_jupyter.topology import discover

        return discover()
    from openhcs_jupyter.engine.dask import topology_of

    return topology_of(scheduler)


def _executor(plan: ExecutionPlan, scheduler: str) -> Executor | None:
    if not scheduler:
        return None
    from openhcs_jupyter.engine.dask import executor_for

    return executor_for(plan, scheduler)


def _save(options: RunOptions, settings: Settings) -> bool:
    if options.preview is not None:
        return False
    return settings.save if options.save is None else options.save


def _narrowed(selection: Selection, wells: tuple[str, ...] | None) -> Selection:
    """Take of a selection the wells to which the steps are limited."""
    if wells is None:
        return selection
    both = wells if selection.wells is None else tuple(well for well in selection.wells if well in wells)
    if not both:
        raise UsageError(
            f"The well filter of the steps takes none of {', '.join(selection.wells or ())}",
            "Choose wells that it takes, or leave it out.",
        )
    return msgspec.structs.replace(selection, wells=both)
