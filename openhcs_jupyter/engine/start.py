"""Starts, resumes and finds runs."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan
from openhcs_jupyter.compiler.problems import known
from openhcs_jupyter.config import load_settings
from openhcs_jupyter.engine.conductor import Conductor, OnError
from openhcs_jupyter.engine.executor import Executor
from openhcs_jupyter.engine.journal import JournalReader
from openhcs_jupyter.engine.listing import run_folders, summary_of
from openhcs_jupyter.engine.local import LocalExecutor
from openhcs_jupyter.engine.program import program_of
from openhcs_jupyter.engine.running import Run
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.errors import RunError
from openhcs_jupyter.events import StoredFile, UnitDone
from openhcs_jupyter.model import RunRecord
from openhcs_jupyter.pipeline.chains import chains_of
from openhcs_jupyter.pipeline.fingerprint import package_versions
from openhcs_jupyter.repository import Repository, connect

Options = Mapping[str, str | int | float | bool | list[str] | None]


def run(
    plan: ExecutionPlan,
    executor: Executor | None = None,
    *,
    on_error: OnError = "continue",
    resume: str | None = None,
    force: bool = False,
    unit_timeout_s: float | None = None,
    options: Options | None = None,
    run_id: str | None = None,
) -> Run:
    """Start a run; returns at once.

    Parameters
    ----------
    plan
        From `compile`.
    executor
        Where units are done; worker processes on this machine if left out.
    on_error
        ``continue``: a failing unit is reported and the others go on. ``stop``: it ends the run.
    resume
        Id of a run of this plate, or ``last``: the latest of this name that did not end well. Its finished units are
        not done again.
    force
        Do every unit, also those whose results are there.
    unit_timeout_s
        A unit that computes longer is stopped and has failed; 0 waits for ever. Left out, the settings say.
    options
        The options as the user gave them, for the provenance.
    run_id
        The run's id, where it was chosen before; a run that is there goes on. Left out, one is made.

    Raises
    ------
    RunError
        If there is no such run to resume, another process conducts it, or its folder cannot be written.
    CompileError
        If the plan's GPUs cannot be used here and one of its functions has no kernel for CPUs.
    """
    executor = executor or LocalExecutor()
    lack = executor.lacks(plan.devices)
    if lack is not None:
        lack = f"{lack}; the run computes on CPUs"
        from openhcs_jupyter.topology import discover

        plan = plan.on_cpus(discover(file=False))
    repository = connect(plan.repository)
    repository.reach()
    folder, known_files = _folder(plan, repository, resume, run_id)
    record = _record(plan, folder.run_id, options or {})
    if resume is not None or folder.exists():
        record = msgspec.structs.replace(record, started=folder.record().started)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = folder.lock()
    except OSError as error:
        raise RunError(
            f"The run's folder {folder.path} cannot be written: {error.strerror}",
            "Free space there, mend its permissions, or connect to a repository in another folder.",
        ) from error
    try:
        folder.create(record, plan)
        started = Run(folder, plan, record)
        conductor = Conductor(
            plan,
            program_of(plan, record, folder.path),
            repository,
            record,
            folder,
            lock,
            executor,
            on_error=on_error,
            unit_timeout_s=load_settings().unit_timeout_s if unit_timeout_s is None else unit_timeout_s,
            known=known_files,
            force=force,
            notify=started.notify,
            notices=() if lack is None else (lack,),
        )
    except BaseException:
        lock.close()
        raise
    started.conduct(conductor)
    return started


def keep_plan(plan: ExecutionPlan, folder: Path, options: Options, run_id: str) -> None:
    """Write what a run begins with, its record, plate and plan, and run nothing.

    Parameters
    ----------
    plan
        From `compile`.
    folder
        Made if it is not there.
    options
        As of `run`.
    run_id
        That the run would have.

    Raises
    ------
    RunError
        If the folder cannot be written.
    """
    RunFolder(folder).create(_record(plan, run_id, options), plan)


def load_run(repository: Repository, run_id: str) -> Run:
    """Find a run by its id, or the latest of a name.

    Raises
    ------
    RunError
        If there is none; lists the latest runs.
    """
    folder = RunFolder(repository.runs_folder / run_id)
    if run_id and "/" not in run_id and folder.path.is_dir():
        return Run(folder, folder.plan(), folder.record())
    folders = run_folders(repository.runs_folder)
    for folder in folders:
        with suppress(RunError):
            if summary_of(folder).name == run_id:
                return Run(folder, folder.plan(), folder.record())
    ids = [folder.run_id for folder in folders]
    raise RunError(f"There is no run {run_id!r} in {repository.uri}.", known(run_id, ids))


def _folder(
    plan: ExecutionPlan, repository: Repository, resume: str | None, run_id: str | None
) -> tuple[RunFolder, dict[str, tuple[StoredFile, ...]]]:
    if run_id is not None:
        folder = RunFolder(repository.runs_folder / run_id)
        return folder, _known_files(folder)
    if resume is None:
        started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S.%f")[:-3]
        return RunFolder(repository.runs_folder / f"{started}-{plan.name}-{os.urandom(2).hex()}"), {}
    folders = run_folders(repository.runs_folder)
    for folder in folders:
        try:
            summary = summary_of(folder)
        except RunError:
            continue
        fits = summary.name == plan.name and summary.status != "done" if resume == "last" else summary.id == resume
        if fits and summary.plate_id == plan.plate_id:
            return folder, _known_files(folder)
    if resume == "last":
        raise RunError(
            f"No run {plan.name!r} of plate {plan.plate_name} is left to resume.", "Start it without --resume."
        )
    raise RunError(
        f"There is no run {resume!r} of plate {plan.plate_name}.",
        known(resume, [folder.run_id for folder in folders]),
    )


def _known_files(folder: RunFolder) -> dict[str, tuple[StoredFile, ...]]:
    """Read from the journal which files each finished unit has, by the fingerprint's part in its folder's name."""
    by_fingerprint = {
        event.fingerprint[:16]: event.files
        for event in JournalReader(folder.journal).read()
        if isinstance(event, UnitDone)
    }
    if not folder.units.is_dir():
        return {}
    keys = (path.name for path in folder.units.iterdir())
    return {key: by_fingerprint[key[-16:]] for key in keys if key[-16:] in by_fingerprint}


def _record(plan: ExecutionPlan, run_id: str, options: Options) -> RunRecord:
    pipeline = plan.pipeline
    functions = [call.function for step in pipeline.steps for chain in chains_of(step).values() for call in chain]
    chosen = {image for unit in plan.units for image in unit.images}
    versions = {image.id: image.version for _, field in plan.plate.fields() for image in field.images}
    return RunRecord(
        id=run_id,
        name=plan.name,
        repository=plan.repository,
        plate_id=plan.plate_id,
        plate_name=plan.plate_name,
        source=pipeline.source,
        source_name=pipeline.source_name,
        options=dict(options),
        user=getpass.getuser(),
        host=socket.gethostname(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=package_versions(functions),
        inputs={image: versions[image] for image in sorted(chosen)},
        script=pipeline.script,
        unsaid=pipeline.unsaid,
    )
