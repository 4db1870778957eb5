"""How runs look in a notebook and in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from openhcs_jupyter.door import Source
from openhcs_jupyter.events import Progress, UnitFailed
from openhcs_jupyter.magics.errors import failure_lines
from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Rendered, count_text, grid, some
from openhcs_jupyter.model import ResultSpec, RunStatus

if TYPE_CHECKING:
    from openhcs_jupyter.engine import Run, RunSummary

_SIGNS = {"running": "\u25b6", "done": "\u2713", "failed": "\u2717", "cancelled": "\u25a0", "interrupted": "\u25a0"}
_SHOWN_ROWS = 5


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of a run at one moment."""

    name: str
    id: str
    plate: str
    status: RunStatus
    progress: Progress
    failures: tuple[UnitFailed, ...] = ()
    results: tuple[ResultSpec, ...] = ()
    left_out: tuple[str, ...] = ()
    """What the run did not take, and why."""
    notices: tuple[str, ...] = ()
    """What the user should know of how it went, though it is no failure."""
    message: str = ""
    """Why the run ended as it did."""
    saved_at: str | None = None
    folder: str = ""
    resumed_by: str = ""
    """What lets it go on."""
    where: str = ""
    """Where units are done; empty for this machine."""
    example: tuple[str, int] | None = None
    """A well and field for which results can be asked."""

    @property
    def units(self) -> int:
        """Units in the plan."""
        return sum(stage.total for stage in self.progress.stages)

    @property
    def done(self) -> int:
        """Units whose results are there."""
        return sum(stage.done for stage in self.progress.stages)

    @property
    def failed(self) -> int:
        """Units that failed."""
        return sum(stage.failed for stage in self.progress.stages)


class RunFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What programs find beside a displayed run."""

    kind: str
    id: str
    name: str
    plate: str
    status: RunStatus
    units: int
    done: int
    failed: int
    seconds: float
    results: tuple[ResultSpec, ...]
    saved_at: str | None


def view_of(run: Run, *, stopping: bool = False) -> RunView:
    """Gather what is shown of a run now.

    Parameters
    ----------
    run
        Of any status.
    stopping
        It was told to stop, and is shown as stopped.
    """
    status = run.status
    plan = run.plan
    failures = tuple(run.failures)
    failed = {failure.unit for failure in failures}
    whole = (unit for unit in plan.units if unit.well and unit.field and unit.id not in failed)
    example = next(((unit.well, unit.field) for unit in whole if unit.well and unit.field), None)
    return RunView(
        name=run.name,
        id=run.id,
        plate=plan.plate_name,
        status="cancelled" if stopping and status == "running" else status,
        progress=run.progress,
        failures=failures,
        results=plan.results,
        left_out=tuple(f"{left.what}: {left.why}" for left in plan.left_out),
        notices=run.notices,
        message=run.message,
        saved_at=run.results_at,
        folder=run.stored_at,
        resumed_by=run.resumed_by,
        where=run.where,
        example=example,
    )


def run_card(run: Run, source: Source | None = None, *, stopping: bool = False) -> Rendered:
    """Show a run as it is now, with its plate map; parameters as of `view_of` and `run_view`."""
    from openhcs_jupyter.widgets.still import run_map
    from openhcs_jupyter.widgets.wells import WellStates

    wells = WellStates(run)
    wells.refresh()
    drawn = run_map(wells.rows, wells.columns, wells.packed()) if wells.count > 1 else ""
    return run_view(view_of(run, stopping=stopping), source, plate_map=drawn)


def run_view(view: RunView, source: Source | None = None, *, plate_map: str = "") -> Rendered:
    """Show a run: running, with bars and the time that remains, or ended, with its results.

    Parameters
    ----------
    view
        The run at one moment.
    source
        The cell that defined it; failing lines are quoted.
    plate_map
        HTML that stands beside the bars.
    """
    color = render.ORANGE if view.failed or view.status == "failed" else render.BLUE
    if view.status in ("cancelled", "interrupted"):
        color = render.GREY
    told = sentence(view)
    sign = _SIGNS[view.status]
    title = (
        f'<span style="color:{color}">{sign}</span> {render.strong(view.name)} '
        f"{render.escape(told)} {render.faint(f'plate {view.plate}')}"
    )
    width = max((len(stage.name) for stage in view.progress.stages), default=8)
    bars = "".join(
        render.bar(stage.name, stage.total, stage.done, stage.failed, stage.running, width)
        for stage in view.progress.stages
    )
    body = [render.beside(plate_map, bars) if plate_map else bars]
    text = [f"{view.name}: {told} Plate {view.plate}."]
    text += [f"  {line}" for line in _stage_texts(view)]
    for notice in view.notices:
        text.append(f"  {'Note':<10}{notice}")
        body.append(render.row("Note", render.escape(notice)))
    if view.failures:
        lines = failure_lines(view.failures, source)
        text += ["  Failed:", *(f"  {line}" for line in lines)]
        body.append(_failures_markup(lines))
    if view.status != "running":
        for label, plain, markup in _outcome(view):
            inset = "\n" + " " * 12
            text.append(f"  {label:<10}{plain}".replace("\n", inset))
            body.append(render.row(label, markup))
    facts = RunFacts(
        kind="run",
        id=view.id,
        name=view.name,
        plate=view.plate,
        status=view.status,
        units=view.units,
        done=view.done,
        failed=view.failed,
        seconds=round(view.progress.elapsed_s, 3),
        results=view.results,
        saved_at=view.saved_at,
    )
    return Rendered("\n".join(text), render.card(title, body, color=color), facts)


def progress_line(view: RunView) -> str:
    """Say in one line how far a run is."""
    return f"{view.name}: {sentence(view)}"


def runs_view(runs: Sequence[RunSummary], where: str) -> Rendered:
    """List runs in the order given."""
    if not runs:
        return Rendered(f"No runs in {where}.", render.card(render.escape(f"No runs in {where}."), []))
    rows = [
        (
            f"{_SIGNS[run.status]} {run.status}",
            run.name,
            run.id,
            run.plate_name,
            f"{run.done} / {run.units}" + (f", {run.failed} failed" if run.failed else ""),
            run.started[:16].replace("T", " "),
            "saved" if run.results else "",
        )
        for run in runs
    ]
    table = grid(["", "name", "run", "plate", "units", "started", ""], rows)
    title = f"{count_text(len(runs), 'run')} in {where}"
    return Rendered(f"{title}\n{table.text}", render.card(render.escape(title), [table.markup]))


def results_grid(results: Sequence[ResultSpec]) -> render.Grid:
    """Lay out what a run makes: name, kind, scope, channels."""
    rows = [(result.name, result.kind, f"by {result.scope}", some(result.channels, 6)) for result in results]
    return grid(["", "", "", ""], rows)


def sentence(view: RunView) -> str:
    """Say in a sentence how far a run is, or how it ended."""
    progress, units = view.progress, view.units
    took = render.time_text(progress.elapsed_s)
    if view.status == "running":
        rate = f", {_rate(progress.units_per_s)}" if progress.units_per_s > 0 else ""
        left = f", {render.time_text(progress.remaining_s)} left" if progress.remaining_s is not None else ""
        failed = f", {view.failed} failed" if view.failed else ""
        where = f" {view.where}" if view.where else ""
        return f"{view.done + view.failed:,} of {count_text(units, 'unit')}{where}{failed}, {took}{rate}{left}."
    if view.status == "done":
        rate = f", {_rate(progress.units_per_s)}" if progress.units_per_s > 0 else ""
        where = f" {view.where}" if view.where else ""
        return f"done, {count_text(units, 'unit')} in {took}{where}{rate}{_there(progress.reused, units)}."
    if view.status == "failed":
        if view.failed:
            return f"{view.failed:,} of {count_text(units, 'unit')} failed, {view.done:,} done, in {took}."
        return f"failed after {view.done:,} of {count_text(units, 'unit')}, {took}."
    failed = f", {view.failed} failed" if view.failed else ""
    return f"{view.status} after {view.done:,} of {count_text(units, 'unit')}{failed}, {took}."


def _there(reused: int, units: int) -> str:
    """Say how many units were not computed."""
    if not reused:
        return ""
    return ", all of it there already" if reused == units else f", {reused:,} of them there already"


def _rate(units_per_s: float) -> str:
    if units_per_s >= 0.95:
        return f"{units_per_s:.3g} units/s"
    return f"{60 * units_per_s:.2g} units/min"


def _stage_texts(view: RunView) -> list[str]:
    width = max((len(stage.name) for stage in view.progress.stages), default=0)
    return [
        f"{stage.name.ljust(width)}  {stage.done:,} / {stage.total:,}"
        + (f", {stage.failed} failed" if stage.failed else "")
        for stage in view.progress.stages
    ]


def _failures_markup(lines: Sequence[str]) -> str:
    style = (
        "margin:4px 0;padding:0;white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;"
        "font-size:12px;line-height:1.35;background:none;"
        f"color:{render.ORANGE}"
    )
    return f'<pre style="{style}">{render.escape(chr(10).join(line[2:] for line in lines))}</pre>'


def _outcome(view: RunView) -> list[tuple[str, str, str]]:
    """List what an ended run left: label, text, HTML."""
    rows = []
    if view.message and view.status == "failed" and not view.failures:
        rows.append(("Why", view.message, render.escape(view.message)))
    if view.results:
        table = results_grid(view.results)
        rows.append(("Results", table.text, table.markup))
    if view.saved_at:
        rows.append(("Saved in", view.saved_at, render.code(view.saved_at)))
    elif view.results:
        rows.append(("Kept in", view.folder, render.code(view.folder)))
    if view.left_out:
        told = "; ".join(view.left_out[:2])
        if len(view.left_out) > 2:
            told += f"; and {len(view.left_out) - 2} more, which the plan lists"
        rows.append(("Left out", told, render.escape(told)))
    calls = _calls(view)
    if calls and view.done:
        rows.append(("Use", "\n".join(calls), "<br>".join(render.code(call) for call in calls)))
    if view.status in ("cancelled", "interrupted"):
        told = f"{view.resumed_by} goes on where it stopped"
        rows.append(("Go on", told, render.escape(told)))
    return rows


def _calls(view: RunView) -> list[str]:
    kinds = {result.kind: result for result in reversed(view.results)}
    calls = [f'{view.name}.table("{kinds["table"].name}")'] if "table" in kinds else []
    if view.example is not None:
        well, field = view.example
        calls += [
            f'{view.name}.{kind}("{kinds[kind].name}", well="{well}", field={field})'
            for kind in ("image", "labels")
            if kind in kinds and kinds[kind].scope == "field"
        ]
    return calls


def results_view(run: Run, source: Source | None = None) -> Rendered:
    """Show what a run made: its results, the first rows of its tables, pictures of one field.

    Parameters
    ----------
    run
        That has ended, or has results already.
    source
        The cell that defined it; failing lines are quoted.
    """
    from openhcs_jupyter.magics.views.thumbnails import thumbnails

    view = view_of(run)
    shown = run_card(run, source)
    text, body = [shown.text], []
    for result in view.results:
        if result.kind in ("table", "points") and view.done:
            table = run.table(result.name)
            told = f"{result.name}: {count_text(len(table), 'row')}, {count_text(len(table.columns), 'column')}"
            text.append(f"  {told}: {some([str(column) for column in table.columns], 12)}")
            rows = table.head(_SHOWN_ROWS).to_html(border=0, index=False, max_cols=16, float_format="{:.5g}".format)
            body.append(render.details(told, f'<div style="overflow-x:auto;font-size:12px">{rows}</div>'))
    if view.example is not None:
        body.append(thumbnails(run, *view.example))
    return Rendered(
        "\n".join(text), f"{shown.markup}<div style='margin-left:15px;font-size:13px'>{''.join(body)}</div>", shown.data
    )
