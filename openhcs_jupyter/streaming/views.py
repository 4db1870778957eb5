"""Makes of a run's plan and plate what a viewer is told before the first result is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from openhcs_jupyter.compiler.plan import ExecutionPlan
from openhcs_jupyter.model import RECORDED, Layout, Plate, ResultSpec, RunRecord
from openhcs_jupyter.streaming.layers import FieldPlace, Layer, RunView, WellPlace


def view_of(plan: ExecutionPlan, record: RunRecord, plate: Plate, folder: Path) -> RunView:
    """Return a run's view; of its layers only names, kinds, colours and scales are known yet."""
    taken = {image for unit in plan.units for image in unit.images}
    units = Counter(unit.well for unit in plan.units)
    wells = []
    layout: Layout | None = None
    for well in plate.wells:
        fields = []
        for field in well.fields:
            images = [image for image in field.images if image.id in taken]
            if images:
                layout = layout or images[0].layout
                fields.append(FieldPlace(field.number, field.position_um))
        if fields:
            wells.append(
                WellPlace(row=well.row, column=well.column, fields=tuple(fields), units=units.get(well.name, 0))
            )
    return RunView(
        id=record.id,
        name=record.name,
        plate=plate.name,
        rows=plate.rows,
        columns=plate.columns,
        wells=tuple(wells),
        fields=tuple(sorted({field.number for well in wells for field in well.fields})),
        layers=_layers(plan, plate, layout),
        units=len(plan.units),
        started=record.started,
        folder=str(folder.resolve()),
    )


def _layers(plan: ExecutionPlan, plate: Plate, layout: Layout | None) -> tuple[Layer, ...]:
    layers: list[Layer] = []
    recorded = layout.pixel_size_um if layout else None
    names = Counter(spec.name for spec in plan.results)
    for spec in plan.results:
        grid = spec.grid or RECORDED
        # Tables may be named like images; in the window every layer has a name of its own.
        shown = f"{spec.name} ({spec.kind})" if names[spec.name] > 1 and spec.kind in ("table", "points") else spec.name
        for channel in split_channels(plan, spec):
            known = next((c for c in plate.channels if c.name == channel), None)
            told = spec.kind == "image" or len(spec.channels) > 1
            layers.append(
                Layer(
                    index=len(layers),
                    name=f"{shown} {channel}" if channel is not None and told else shown,
                    result=spec.name,
                    kind=spec.kind,
                    scope=spec.scope,
                    channel=channel,
                    color=known.color if known and spec.kind == "image" else None,
                    emission_nm=known.emission_nm if known else None,
                    over=_over(plan, layers, spec, channel),
                    pixel_size_um=recorded * grid.factor if recorded else None,
                    corner_um=(grid.y * (recorded or 1.0), grid.x * (recorded or 1.0)),
                    z_step_um=layout.z_step_um if layout else None,
                )
            )
    return tuple(layers)


def split_channels(plan: ExecutionPlan, spec: ResultSpec) -> Iterator[str | None]:
    """Iterate over the channels of which a result has a file each; None where one file holds the whole result."""
    if spec.kind in ("table", "points"):
        yield None
        return
    output = next((o for o in plan.steps[spec.step].outputs if (o.kind, o.name) == (spec.kind, spec.name)), None)
    if output is None or output.by_channel:
        yield from spec.channels
    else:
        yield spec.channels[0] if len(spec.channels) == 1 and spec.kind == "labels" else None


def _over(plan: ExecutionPlan, layers: list[Layer], spec: ResultSpec, channel: str | None) -> int | None:
    """Find the image over which labels or points lie, or the labels whose objects a table describes."""
    if spec.kind == "table":
        taken = {one.name for one in plan.steps[spec.step].inputs if one.kind == "labels"}
        return next((layer.index for layer in layers if layer.kind == "labels" and layer.result in taken), None)
    below = [layer for layer in layers if layer.kind == "image" and layer.result == spec.over]
    same = [layer.index for layer in below if layer.channel == channel]
    return next(iter(same or [layer.index for layer in below]), None) if spec.over is not None else None
