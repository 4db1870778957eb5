"""How a run, a plan, a plate and lists of them look in a notebook and in a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from openhcs_jupyter.events import Progress, UnitFailed
from openhcs_jupyter.magics import render
from openhcs_jupyter.magics.errors import Source, failure_lines
from openhcs_jupyter.magics.render import Rendered, count_text, grid, some
from openhcs_jupyter.model import Layout, Plate, PlateSummary, ResultSpec, RunStatus

if TYPE_CHECKING:
    from openhcs_jupyter.compiler import ExecutionPlan
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
    message: str = ""
    """Why the run ended as it did."""
    saved_at: str | None = None
    folder: str = ""
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
        message=run.message,
        saved_at=run.results_at,
        folder=str(run.folder),
        example=example,
    )


def run_view(view: RunView, source: Source | None = None) -> Rendered:
    """Show a run: running, with bars and the time that remains, or ended, with its results.

    Parameters
    ----------
    view
        The run at one moment.
    source
        The cell that defined it; failing lines are quoted.
    """
    color = render.ORANGE if view.failed or view.status == "failed" else render.BLUE
    if view.status in ("cancelled", "interrupted"):
        color = render.GREY
    sentence = _sentence(view)
    sign = _SIGNS[view.status]
    title = (
        f'<span style="color:{color}">{sign}</span> {render.strong(view.name)} '
        f"{render.escape(sentence)} {render.faint(f'plate {view.plate}')}"
    )
    width = max((len(stage.name) for stage in view.progress.stages), default=8)
    body = [
        render.bar(stage.name, stage.total, stage.done, stage.failed, stage.running, width)
        for stage in view.progress.stages
    ]
    text = [f"{view.name}: {sentence} Plate {view.plate}."]
    text += [f"  {line}" for line in _stage_texts(view)]
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
    return f"{view.name}: {_sentence(view)}"


def plan_view(plan: ExecutionPlan, *, dry: bool = False) -> Rendered:
    """Show what a run does: steps, stages, units, devices, memory, results, and what is left out.

    Parameters
    ----------
    plan
        From the compiler, or of a run.
    dry
        Say that nothing was run.
    """
    wells = {unit.well for unit in plan.units if unit.well}
    fields = {(unit.well, unit.field) for unit in plan.units if unit.field is not None}
    parts = [count_text(len(wells), "well")] if wells else []
    parts += [count_text(len(fields), "field")] if fields else []
    parts += [count_text(len(plan.stages), "stage"), count_text(len(plan.units), "unit")]
    read = sum(unit.read_bytes for unit in plan.units)
    sentence = f"{', '.join(parts)}; reads {render.size_text(read)}"
    stages = grid(
        ["stage", "units", "a unit is", "steps", "memory a unit"], [_stage_row(plan, index) for index in _indices(plan)]
    )
    steps = grid(
        ["line", "step", "along", "channels", "makes"],
        [
            (
                step.line,
                step.name,
                step.stack if step.kind == "pixels" else step.kind,
                some(step.channels, 4),
                some([f"{output.name} ({output.kind})" for output in step.outputs] + ["its images"] * step.keep, 4),
            )
            for step in plan.steps
        ],
    )
    results = _results_grid(plan.results)
    saved = "saved into the repository" if plan.save else "kept in the run's folder; --save writes them"
    memory = (
        f"{render.size_text(plan.memory.in_flight_bytes)} in flight of {render.size_text(plan.memory.limit_bytes)} "
        f"allowed; {count_text(plan.memory.workers, 'worker')}, largest unit "
        f"{render.size_text(plan.memory.unit_peak_bytes)}"
    )
    devices = ", ".join(plan.devices)
    reads = f"the {plan.source_kind} of each field: {some([taken.channel.name for taken in plan.channels], 12)}"
    text = [
        f"Plan of {plan.name} on plate {plan.plate_name}: {sentence}.{' Nothing was run.' * dry}",
        *_indented(steps.text),
        "",
        *_indented(stages.text),
        "",
        f"  Devices   {devices}",
        f"  Memory    {memory}",
        f"  Reads     {reads}",
    ]
    body = [
        steps.markup,
        stages.markup,
        render.row("Devices", render.escape(devices)),
        render.row("Memory", render.escape(memory)),
        render.row("Reads", render.escape(reads)),
    ]
    if plan.results:
        text += [f"  Results   {saved}", *_indented(results.text, 12)]
        body += [render.row("Results", f"{render.escape(saved)}{results.markup}")]
    if plan.left_out:
        whys: dict[str, list[str]] = {}
        for left_out in plan.left_out:
            whys.setdefault(left_out.why, []).append(left_out.what)
        reasons = [f"{some(what, 6)}: {why}" for why, what in whys.items()]
        left = grid(["", ""], [(left.what, left.why) for left in plan.left_out])
        text += ["  Left out  " + "\n            ".join(reasons)]
        body.append(render.details(f"Left out: {len(plan.left_out)}", left.markup))
    title = f"{render.strong(plan.name)} {render.escape(f'on plate {plan.plate_name}: {sentence}')}"
    return Rendered(
        "\n".join(text), render.card(f"{title} {render.faint('plan; nothing was run' if dry else 'plan')}", body)
    )


def plate_view(plate: Plate) -> Rendered:
    """Show a plate: its wells, its channels, and which planes are missing."""
    fields = list(plate.fields())
    counts = Counter(len(well.fields) for well in plate.wells)
    usual = counts.most_common(1)[0][0] if counts else 0
    rows = []
    for c, channel in enumerate(plate.channels):
        emission = f"{channel.emission_nm:.0f} nm" if channel.emission_nm else ""
        kinds = [_kind_text(plate, kind, c) for kind in ("stack", "projection")]
        rows.append((channel.name, emission, *kinds))
    channels = grid(["channel", "emission", "stack", "projection"], rows)
    layout = _usual_layout(plate)
    pixels = ""
    if layout is not None:
        size = f", {layout.pixel_size_um:g} \u00b5m a pixel" if layout.pixel_size_um else ""
        pixels = f"{layout.size_x} x {layout.size_y} {layout.dtype}{size}"
        if layout.size_t > 1:
            pixels += f", {layout.size_t} time points"
    sentence = (
        f"{count_text(len(plate.wells), 'well')} of {plate.rows} x {plate.columns}, {count_text(len(fields), 'field')}"
    )
    text = [
        f"Plate {plate.id}, {plate.name}: {sentence}.",
        f"  Wells     {some([well.name for well in plate.wells], 12)}",
        f"  Pixels    {pixels}",
        *_indented(channels.text),
    ]
    title = f"{render.strong(plate.name)} {render.faint(f'plate {plate.id}')} {render.escape(sentence)}"
    body = [_plate_map(plate, usual), render.row("Pixels", render.escape(pixels)), channels.markup]
    return Rendered("\n".join(text), render.card(title, body))


def plates_view(plates: Sequence[PlateSummary], where: str) -> Rendered:
    """List the plates of a repository."""
    if not plates:
        hint = "Register one: %openhcs import FOLDER, or try %openhcs connect demo."
        return Rendered(
            f"{where} has no plates. {hint}", render.card(render.escape(f"{where} has no plates. {hint}"), [])
        )
    rows = [
        (
            plate.id,
            plate.name,
            plate.wells,
            plate.fields,
            some(plate.channels, 5),
            render.size_text(plate.bytes),
            plate.format,
            plate.imported[:10],
            f"\u26a0 {len(plate.problems)}" if plate.problems else "",
        )
        for plate in plates
    ]
    table = grid(["id", "name", "wells", "fields", "channels", "pixels", "format", "since", ""], rows)
    title = f"{count_text(len(plates), 'plate')} in {where}"
    return Rendered(f"{title}\n{table.text}", render.card(render.escape(title), [table.markup]))


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


def _sentence(view: RunView) -> str:
    progress, units = view.progress, view.units
    took = render.time_text(progress.elapsed_s)
    if view.status == "running":
        rate = f", {_rate(progress.units_per_s)}" if progress.units_per_s > 0 else ""
        left = f", {render.time_text(progress.remaining_s)} left" if progress.remaining_s is not None else ""
        failed = f", {view.failed} failed" if view.failed else ""
        return f"{view.done + view.failed:,} of {count_text(units, 'unit')}{failed}, {took}{rate}{left}."
    if view.status == "done":
        rate = f", {_rate(progress.units_per_s)}" if progress.units_per_s > 0 else ""
        return f"done, {count_text(units, 'unit')} in {took}{rate}."
    if view.status == "failed":
        if view.failed:
            return f"{view.failed:,} of {count_text(units, 'unit')} failed, {view.done:,} done, in {took}."
        return f"failed after {view.done:,} of {count_text(units, 'unit')}, {took}."
    failed = f", {view.failed} failed" if view.failed else ""
    return f"{view.status} after {view.done:,} of {count_text(units, 'unit')}{failed}, {took}."


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
        table = _results_grid(view.results)
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
        told = f"add --resume {view.id} to go on where it stopped"
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


def _results_grid(results: Sequence[ResultSpec]) -> render.Grid:
    rows = [(result.name, result.kind, f"by {result.scope}", some(result.channels, 6)) for result in results]
    return grid(["", "", "", ""], rows)


def _indices(plan: ExecutionPlan) -> range:
    return range(len(plan.stages))


def _stage_row(plan: ExecutionPlan, index: int) -> tuple[object, ...]:
    stage = plan.stages[index]
    peaks = [unit.peak_bytes for unit in plan.units if unit.stage == stage.index]
    names = [plan.steps[step].name for step in stage.steps]
    return (
        stage.name,
        stage.units,
        f"a {stage.scope}",
        some(names, 5),
        render.size_text(max(peaks)) if any(peaks) else "",
    )


def _kind_text(plate: Plate, kind: str, c: int) -> str:
    """Say in how many fields a channel has planes of this kind of image, and how many slices."""
    have: Counter[int] = Counter()
    total = 0
    for _, field in plate.fields():
        total += 1
        for image in field.images:
            if image.kind == kind:
                have[len(image.layout.slices(0, c))] += 1
    counted = {slices: fields for slices, fields in have.items() if slices}
    if not counted:
        return "missing"
    said = " or ".join(count_text(slices, "slice") for slices in sorted(counted, reverse=True))
    there = sum(counted.values())
    return said if there == total else f"{said} in {there} of {total} fields"


def _usual_layout(plate: Plate) -> Layout | None:
    counts = Counter(image.layout for _, field in plate.fields() for image in field.images)
    return counts.most_common(1)[0][0] if counts else None


def _plate_map(plate: Plate, usual: int) -> str:
    """Draw the plate's wells as small squares; one with fewer fields than most is lighter."""
    there = {(well.row, well.column): well for well in plate.wells}
    side = 9 if plate.columns <= 24 else 5
    lines = []
    for r in range(plate.rows):
        cells = []
        for c in range(plate.columns):
            well = there.get((r, c))
            shade = "rgba(128,128,128,.22)" if well is None else render.BLUE
            weak = ";opacity:.55" if well is not None and len(well.fields) < usual else ""
            title = f' title="{well.name}: {count_text(len(well.fields), "field")}"' if well is not None else ""
            cells.append(
                f'<span{title} style="display:inline-block;width:{side}px;height:{side}px;margin:1px;border-radius:50%;'
                f'background:{shade}{weak}"></span>'
            )
        lines.append(f'<div style="line-height:0;white-space:nowrap">{"".join(cells)}</div>')
    return f'<div style="margin:4px 0">{"".join(lines)}</div>'


def _indented(text: str, by: int = 2) -> list[str]:
    return [" " * by + line for line in text.splitlines()]


def results_view(run: Run, source: Source | None = None) -> Rendered:
    """Show what a run made: its results, the first rows of its tables, pictures of one field.

    Parameters
    ----------
    run
        That has ended, or has results already.
    source
        The cell that defined it; failing lines are quoted.
    """
    from openhcs_jupyter.magics.thumbnails import thumbnails

    view = view_of(run)
    shown = run_view(view, source)
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
