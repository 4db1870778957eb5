"""How plates look in a notebook and in a terminal: what they hold, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from openhcs_jupyter.magics.views import render
from openhcs_jupyter.magics.views.render import Rendered, count_text, grid, indented, some
from openhcs_jupyter.model import Layout, Plate, PlateSummary
from openhcs_jupyter.repository import Group


def plate_view(plate: Plate, called: str | None = None) -> Rendered:
    """Show a plate: its wells, its channels, and which planes are missing.

    Parameters
    ----------
    plate
        The plate.
    called
        What cells call it; left out, its id.
    """
    called = f"plate {plate.id}" if called is None or called.isdecimal() else called
    fields = list(plate.fields())
    counts = Counter(len(well.fields) for well in plate.wells)
    usual = counts.most_common(1)[0][0] if counts else 0
    # A kind of image that the microscope did not save is not missing.
    saved = {image.kind for _, field in fields for image in field.images}
    kinds = [kind for kind in ("stack", "projection") if kind in saved]
    rows = []
    for c, channel in enumerate(plate.channels):
        emission = f"{channel.emission_nm:.0f} nm" if channel.emission_nm else ""
        rows.append((channel.name, emission, *(_kind_text(plate, kind, c) for kind in kinds)))
    channels = grid(["channel", "emission", *kinds], rows)
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
        f"{called[0].upper()}{called[1:]}, {plate.name}: {sentence}.",
        f"  Wells     {some([well.name for well in plate.wells], 12)}",
        f"  Pixels    {pixels}",
        *indented(channels.text),
    ]
    title = f"{render.strong(plate.name)} {render.faint(called)} {render.escape(sentence)}"
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
            render.size_text(plate.bytes) if plate.bytes else "",
            plate.format,
            plate.imported[:10],
            f"\u26a0 {len(plate.problems)}" if plate.problems else "",
        )
        for plate in plates
    ]
    heads = ["id", "name", "wells", "fields", "channels", "pixels", "format", "since", ""]
    # What a repository does not know of any plate, such as OMERO the bytes, has no column.
    told = [column for column, values in enumerate(zip(*rows, strict=True)) if any(map(str, values))]
    table = grid([heads[column] for column in told], [[row[column] for column in told] for row in rows])
    title = f"{count_text(len(plates), 'plate')} in {where}"
    return Rendered(f"{title}\n{table.text}", render.card(render.escape(title), [table.markup]))


def groups_view(groups: Sequence[Group], where: str) -> Rendered:
    """List the groups of a repository's user; those whose plates are taken have a mark."""
    if not groups:
        text = f"{where} has no groups."
        return Rendered(text, render.card(render.escape(text), []))
    rows = [("\u2713" if group.chosen else "", group.name, group.rights, group.plates) for group in groups]
    table = grid(["", "group", "members", "plates"], rows)
    hint = "%openhcs group NAME takes the plates of one group, %openhcs group all of all."
    title = f"{count_text(len(groups), 'group')} in {where}"
    return Rendered(
        f"{title}\n{table.text}\n{hint}", render.card(render.escape(title), [table.markup, render.faint(hint)])
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
