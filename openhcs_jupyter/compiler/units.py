"""Makes the units of every stage, with their parents, fingerprints and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.plan import PLAN_VERSION, PlannedStep, Unit
from openhcs_jupyter.compiler.selection import Chosen
from openhcs_jupyter.compiler.stages import MERGED_AT_A_TIME, DraftStage
from openhcs_jupyter.model import Layout, Plate, Scope
from openhcs_jupyter.pipeline.fingerprint import combine

Place = tuple[str | None, int | None]
"""Well and field of a unit; None where it reaches wider."""


class _Group(msgspec.Struct):
    """The source images of one place."""

    place: Place
    images: tuple[int, ...]
    versions: tuple[str, ...]
    layouts: tuple[Layout, ...]


class UnitMaker:
    """Makes units, stage after stage.

    Parameters
    ----------
    plate
        The plate.
    chosen
        What the run takes of it.
    steps
        The steps, by index.
    identity
        What all units' results depend on: versions, channels, kind of source.
    """

    def __init__(self, plate: Plate, chosen: Chosen, steps: Mapping[int, PlannedStep], identity: str) -> None:
        self.units: list[Unit] = []
        self._chosen = chosen
        self._steps = steps
        self._identity = identity
        self._plate_name = plate.name
        self._groups = _groups(chosen)
        self._fields_of: dict[str | None, list[Place]] = {}
        for group in self._groups["field"]:
            self._fields_of.setdefault(group.place[0], []).append(group.place)
        self._by_stage: list[dict[Place, Unit]] = []
        self._scopes: list[Scope] = []
        self._sizes: dict[tuple[int, tuple[Layout, ...]], tuple[int, int]] = {}

    def make(self, draft: DraftStage) -> int:
        """Make the units of one stage and return how many there are."""
        fingerprint = self._stage_fingerprint(draft)
        if draft.kind == "merge":
            made = self._merges(draft, fingerprint)
        elif draft.kind == "finish":
            made = {(None, None): self._unit(draft, (None, None), None, self._all(draft), fingerprint)}
        else:
            reads_pixels = draft.kind == "compute" and self._is_pixels(draft) and draft.starts_from is None
            needs = sorted(draft.needs | ({draft.starts_from} if draft.starts_from is not None else set()))
            made = {}
            for group in self._groups[draft.scope]:
                parents = [unit for stage in needs for unit in self._related(stage, group.place)]
                made[group.place] = self._unit(
                    draft, group.place, group if reads_pixels else None, parents, fingerprint
                )
        self._by_stage.append(made)
        self._scopes.append(draft.scope)
        return len(made)

    def _is_pixels(self, draft: DraftStage) -> bool:
        return any(self._steps[index].kind != "table" for index in draft.steps)

    def _all(self, draft: DraftStage) -> list[Unit]:
        return [unit for stage in sorted(draft.needs) for unit in self._by_stage[stage].values()]

    def _merges(self, draft: DraftStage, fingerprint: str) -> dict[Place, Unit]:
        below = self._all(draft)
        made: dict[Place, Unit] = {}
        for number, start in enumerate(range(0, len(below), MERGED_AT_A_TIME)):
            parents = below[start : start + MERGED_AT_A_TIME]
            made[None, number] = self._unit(draft, (None, number), None, parents, fingerprint)
        return made

    def _related(self, stage: int, place: Place) -> list[Unit]:
        """Units of an earlier stage that lie within a place, or around it."""
        units = self._by_stage[stage]
        scope = self._scopes[stage]
        well, field = place
        if scope == "plate" or well is None:
            return list(units.values())
        if scope == "well":
            return [units[well, None]]
        if field is not None:
            return [units[place]]
        return [units[inside] for inside in self._fields_of[well]]

    def _unit(
        self, draft: DraftStage, place: Place, group: _Group | None, parents: Sequence[Unit], fingerprint: str
    ) -> Unit:
        leaves = [] if group is None else [f"{i}:{v}" for i, v in zip(group.images, group.versions, strict=True)]
        read, peak = self._bytes(draft, group)
        if group is None and draft.starts_from is not None:
            read = peak = max((parent.peak_bytes for parent in parents), default=0)
        unit = Unit(
            id=len(self.units),
            stage=draft.index,
            well=place[0],
            field=place[1],
            images=() if group is None else group.images,
            parents=tuple(parent.id for parent in parents),
            fingerprint=combine(
                fingerprint, place[0] or "", place[1] or 0, *leaves, *[parent.fingerprint for parent in parents]
            ),
            read_bytes=read,
            peak_bytes=peak,
        )
        self.units.append(unit)
        return unit

    def _bytes(self, draft: DraftStage, group: _Group | None) -> tuple[int, int]:
        """Estimate the bytes that a unit reads, and its peak: what it holds and what its largest call takes beside."""
        if group is None:
            return 0, 0
        known = self._sizes.get((draft.index, group.layouts))
        if known is None:
            read = sum(self._image_bytes(layout) for layout in group.layouts)
            call = 0.0
            for index in draft.steps:
                step = self._steps[index]
                for uses in step.chains.values():
                    stack = self._stack_bytes(step, group.layouts)
                    call = max([call, *(use.need * stack for use in uses)])
            known = (read, int(2 * read + call))
            self._sizes[draft.index, group.layouts] = known
        return known

    def _image_bytes(self, layout: Layout) -> int:
        slices = sum(len(z) for z in self._chosen.slices.values())
        return layout.plane_bytes * slices * self._chosen.size_t

    def _stack_bytes(self, step: PlannedStep, layouts: Sequence[Layout]) -> int:
        plane = max(layout.plane_bytes for layout in layouts)
        depth = {
            "z": max((len(z) for z in self._chosen.slices.values()), default=1),
            "channel": len(step.channels),
            "field": len(layouts),
            "t": self._chosen.size_t,
        }[step.stack]
        return plane * depth

    def _stage_fingerprint(self, draft: DraftStage) -> str:
        parts: list[str] = []
        for index in draft.steps:
            step = self._steps[index]
            chains = [
                (key, [(use.fingerprint, use.kind, use.takes_context, use.takes) for use in uses])
                for key, uses in sorted(step.chains.items())
            ]
            inputs = [(i.keyword, i.kind, i.name, i.by_channel) for i in step.inputs]
            outputs = [(o.kind, o.name, o.by_channel) for o in step.outputs]
            kept = step.name if step.keep else None
            parts.append(
                repr((step.kind, step.stack, chains, step.channels, step.channels_after, inputs, outputs, kept))
            )
        return combine(str(PLAN_VERSION), draft.kind, draft.scope, self._plate_name, self._identity, *parts)


def _groups(chosen: Chosen) -> dict[Scope, list[_Group]]:
    fields = [
        _Group((well.name, field.number), (image.id,), (image.version,), (image.layout,))
        for well, field, image in chosen.fields
    ]
    wells: dict[str | None, list[_Group]] = {}
    for group in fields:
        wells.setdefault(group.place[0], []).append(group)
    return {
        "field": fields,
        "well": [_joined((well, None), groups) for well, groups in wells.items()],
        "plate": [_joined((None, None), fields)],
    }


def _joined(place: Place, groups: Sequence[_Group]) -> _Group:
    return _Group(
        place,
        tuple(image for group in groups for image in group.images),
        tuple(version for group in groups for version in group.versions),
        tuple(layout for group in groups for layout in group.layouts),
    )
