"""How a plan looks in a notebook and in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.gpus import devices_grid, moves_text
from openhcs_jupyter.magics.views.render import Rendered, count_text, grid, indented, some
from openhcs_jupyter.magics.views.runs import results_grid

if TYPE_CHECKING:
    from openhcs_jupyter.compiler import ExecutionPlan
    from openhcs_jupyter.compiler.plan import PlannedStep


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
        ["stage", "units", "a unit is", "steps", "memory a unit"],
        [_stage_row(plan, index) for index in range(len(plan.stages))],
    )
    steps = grid(
        ["line", "step", *(["on"] if plan.devices else []), "along", "channels", "makes"],
        [
            (
                step.line,
                step.name,
                *([_memory_text(step)] if plan.devices else []),
                step.stack if step.kind == "pixels" else step.kind,
                some(step.channels, 4),
                some(
                    [f"{output.name} ({output.kind})" for output in step.outputs]
                    + ["its images"] * (step.keep_as is not None),
                    4,
                ),
            )
            for step in plan.steps
        ],
    )
    results = results_grid(plan.results)
    saved = "saved into the repository" if plan.save else "kept in the run's folder; --save writes them"
    memory = (
        f"{render.size_text(plan.memory.in_flight_bytes)} in flight of {render.size_text(plan.memory.limit_bytes)} "
        f"allowed; {count_text(plan.memory.workers, 'worker')}, largest unit "
        f"{render.size_text(plan.memory.unit_peak_bytes)}"
    )
    devices = ", ".join(plan.computes_on)
    reads = f"the {plan.source_kind} of each field: {some([taken.channel.name for taken in plan.channels], 12)}"
    on_gpus = devices_grid(plan) if plan.devices else None
    moves = moves_text(plan)
    text = [
        f"Plan of {plan.name} on plate {plan.plate_name}: {sentence}.{' Nothing was run.' * dry}",
        *indented(steps.text),
        "",
        *indented(stages.text),
        "",
        f"  Devices   {devices}",
        *(indented(on_gpus.text, 12) if on_gpus else []),
        *_listed("Moves", moves),
        f"  Memory    {memory}",
        f"  Reads     {reads}",
    ]
    body = [
        steps.markup,
        stages.markup,
        render.row("Devices", render.escape(devices) + (on_gpus.markup if on_gpus else "")),
        *([render.row("Moves", "<br>".join(map(render.escape, moves)))] if moves else []),
        render.row("Memory", render.escape(memory)),
        render.row("Reads", render.escape(reads)),
    ]
    if plan.results:
        text += [f"  Results   {saved}", *indented(results.text, 12)]
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


def _memory_text(step: PlannedStep) -> str:
    """Say where the functions of a step run: ``gpu``, ``cpu``, or both in their order."""
    words = {"cupy": "gpu", "numpy": "cpu"}
    used = dict.fromkeys(words[use.memory] for uses in step.chains.values() for use in uses)
    return " and ".join(used)


def _listed(label: str, lines: list[str]) -> list[str]:
    return [f"  {label if not number else '':<10}{line}" for number, line in enumerate(lines)]


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
