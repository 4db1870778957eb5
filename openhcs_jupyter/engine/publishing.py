"""Publishes a run's results with their provenance, once all units have ended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.store import RunFolder
from openhcs_jupyter.engine.tables import read_tables
from openhcs_jupyter.model import RunRecord
from openhcs_jupyter.repository import Repository


def publish(
    plan: ExecutionPlan,
    record: RunRecord,
    folder: RunFolder,
    repository: Repository,
    finished: Sequence[tuple[Unit, str]],
    failed: int,
) -> str | None:
    """Write tables and provenance into the repository and make the results visible; None if the run saves nothing.

    Parameters
    ----------
    plan, record, folder, repository
        Of the run.
    finished
        Units that have results, with the names of their folders.
    failed
        Number of units that failed by themselves; the provenance tells it.

    Raises
    ------
    RepositoryError
        If the results cannot be written.
    """
    if not plan.save:
        return None
    writer = repository.writer(record)
    for spec in plan.results:
        if spec.kind in ("table", "points"):
            paths = [folder.units / key / f"{spec.kind}.{spec.name}.arrow" for _, key in finished]
            if any(path.exists() for path in paths):
                writer.write_table(spec.name, read_tables(paths))
    saved = {stage.index for stage in plan.stages if stage.kind == "save"}
    places = [(unit.well, unit.field) for unit, _ in finished if unit.stage in saved]
    return writer.finish(places, _documents(plan, record, failed))


def _documents(plan: ExecutionPlan, record: RunRecord, failed: int) -> dict[str, bytes]:
    provenance = {
        "run": record,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "complete": failed == 0,
        "failed_units": failed,
        "units": len(plan.units),
        "steps": plan.steps,
        "channels": plan.channels,
        "left_out": plan.left_out,
    }
    documents = {
        "provenance.json": msgspec.json.format(msgspec.json.encode(provenance), indent=1),
        "plan.json": plan.to_json(),
    }
    if record.source:
        documents["pipeline.py"] = record.source.encode()
    return documents
