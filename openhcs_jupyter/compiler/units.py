"""Makes the units of every stage, with their parents, fingerprints and memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import msgspec

from openhcs_jupyter.compiler.images import ImageState
from openhcs_jupyter.compiler.plan import PLAN_VERSION, PlannedStep, Stage, Unit, made_channels
from openhcs_jupyter.compiler.selection import Chosen
from openhcs_jupyter.compiler.stages import MERGED_AT_A_TIME, DraftStage
from openhcs_jupyter.model import ImageKind, Layout, Plate, Scope
from openhcs_jupyter.pipeline.contracts import MemoryType
from openhcs_jupyter.pipeline.fingerprint import combine

Place = tuple[str | None, int | None]
"""Well and field of a unit; None where it reaches wider."""


class _Group(msgspec.Struct):
    """The source images of one place."""

    place: Place
    images: tuple[int, ...] = ()
    leaves: tuple[str, ...] = ()
    """Id and version of each image."""
    facts: tuple[str, ...] = ()
    """What else functions may be told of each."""
    plane_bytes: tuple[int, ...] = ()
    """Of each."""


class UnitMaker:
    """Makes units, stage after stage.

    Parameters
    ----------
    plate
        The plate.
    chosen
        What the run takes of it.
    source
        Kind of the source images.
    steps
        The steps.
    before
        By step index: the images that it is given.
    """

    def __init__(
        self,
        plate: Plate,
        chosen: Chosen,
        source: ImageKind,
        steps: Sequence[PlannedStep],
        before: Mapping[int, ImageState],
    ) -> None:
        self.units: list[Unit] = []
        self._plate = plate
        self._chosen = chosen
        self._source = source
        self._steps = {step.index: step for step in steps}
        self._before = before
        self._groups = _groups(chosen)
        self._fields_of: dict[str | None, list[Place]] = {}
        for group in self._groups["field"]:
            self._fields_of.setdefault(group.place[0], []).append(group.place)
        self._by_stage: list[dict[Place, Unit]] = []
        self._scopes: list[Scope] = []
        self._sizes: dict[tuple[int, tuple[int, ...]], tuple[int, int, int]] = {}

    def make(self, draft: DraftStage) -> int:
        """Make the units of one stage and return how many there are."""
        fingerprint = self._stage_fingerprint(draft)
        made: dict[Place, Unit] = {}
        if draft.kind in ("merge", "finish"):
            below = [unit for stage in sorted(draft.needs) for unit in self._by_stage[stage].values()]
            size = MERGED_AT_A_TIME if draft.kind == "merge" else len(below)
            for number, start in enumerate(range(0, len(below), size)):
                place = (None, number if draft.kind == "merge" else None)
                made[place] = self._add(draft, _Group(place), below[start : start + size], fingerprint)
        else:
            on_pixels = self._on_pixels(draft)
            takes_facts = self._takes_facts(draft)
            needs = sorted(draft.needs | ({draft.starts_from} if draft.starts_from is not None else set()))
            for group in self._groups[draft.scope]:
                parents = [unit for stage in needs for unit in self._related(stage, group.place)]
                images, leaves = group.images, (*group.leaves, *(group.facts if takes_facts else ()))
                if not on_pixels or draft.starts_from is not None:
                    images, leaves = (), leaves[len(group.leaves) :]
                sizes = self._bytes(draft, group) if on_pixels else (0, 0, 0)
                unit = self._add(draft, _Group(group.place, images, leaves), parents, fingerprint, *sizes)
                if on_pixels and group.place[0] is not None:
                    unit = self._rooted(unit, (*leaves, *group.facts))
                made[group.place] = unit
        self._by_stage.append(made)
        self._scopes.append(draft.scope)
        return len(made)

    def ways(self, draft: DraftStage) -> tuple[str, ...]:
        """Identify the work of a stage up to each of its steps; empty where it computes nothing on images."""
        if not self._on_pixels(draft):
            return ()
        parts = (draft.steps[: count + 1] for count in range(len(draft.steps)))
        return tuple(
            combine(
                "way", self._stage_fingerprint(msgspec.structs.replace(draft, steps=steps, carries=False), way=True)
            )
            for steps in parts
        )

    def hungriest(self, stage: Stage, memory: MemoryType = "numpy") -> int:
        """Return the index of the step of a stage whose calls take most of a memory."""
        return max(stage.steps, key=lambda index: self._call_planes(self._steps[index], 1, memory))

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

    def _add(
        self,
        draft: DraftStage,
        group: _Group,
        parents: Sequence[Unit],
        fingerprint: str,
        read_bytes: int = 0,
        peak_bytes: int = 0,
        device_bytes: int = 0,
    ) -> Unit:
        well, field = group.place
        unit = Unit(
            id=len(self.units),
            stage=draft.index,
            well=well,
            field=field,
            images=group.images,
            parents=tuple(parent.id for parent in parents),
            fingerprint=combine(
                fingerprint, well or "", field or 0, *group.leaves, *[parent.fingerprint for parent in parents]
            ),
            read_bytes=read_bytes,
            peak_bytes=peak_bytes,
            device_bytes=device_bytes,
        )
        self.units.append(unit)
        return unit

    def _rooted(self, unit: Unit, leaves: Sequence[str]) -> Unit:
        parents = [self.units[number].fingerprint for number in unit.parents]
        root = combine(unit.well or "", unit.field or 0, *leaves, *parents)
        self.units[unit.id] = unit = msgspec.structs.replace(unit, root=root)
        return unit

    def _on_pixels(self, draft: DraftStage) -> bool:
        return draft.kind == "compute" and any(self._steps[index].kind != "table" for index in draft.steps)

    def _takes_facts(self, draft: DraftStage) -> bool:
        """Tell whether positions and sizes of pixels may show in the results."""
        uses = (use for index in draft.steps for chain in self._steps[index].chains.values() for use in chain)
        return draft.kind == "save" or any(use.takes_context for use in uses)

    def _bytes(self, draft: DraftStage, group: _Group) -> tuple[int, int, int]:
        """Estimate the bytes that a unit reads, its peak, and that on a GPU: what it holds and its largest call."""
        known = self._sizes.get((draft.index, group.plane_bytes))
        if known is None:
            first = min(index for index in draft.steps if self._steps[index].kind != "table")
            planes = sum(self._planes(first, name) for name in self._read_channels(draft)) * self._chosen.size_t
            read = planes * sum(group.plane_bytes)
            call = max(self._call_planes(self._steps[index], len(group.plane_bytes)) for index in draft.steps)
            known = (read, int(2 * read + call * max(group.plane_bytes)), self._device_bytes(draft, group, read))
            self._sizes[draft.index, group.plane_bytes] = known
        return known

    def _device_bytes(self, draft: DraftStage, group: _Group, read: int) -> int:
        """Estimate what a unit takes on a GPU: its stacks, those of the next one, and what its largest call takes."""
        calls = [self._call_planes(self._steps[i], len(group.plane_bytes), "cupy") for i in draft.steps]
        largest = int(max(calls) * max(group.plane_bytes))
        if not largest:
            return 0
        # Stacks of a field are sent ahead; wider units send each when its turn comes.
        return 2 * read + largest if draft.scope == "field" else 2 * largest

    def _read_channels(self, draft: DraftStage) -> list[str]:
        """Name the channels that a stage reads: those of its steps, or all where it leaves its images to another."""
        steps = [self._steps[index] for index in draft.steps if self._steps[index].kind != "table"]
        there = self._before[steps[0].index].channels
        return [name for name in there if draft.carries or any(name in step.channels for step in steps)]

    def _planes(self, index: int, channel: str) -> int:
        """Count the planes along z that a step is given of a channel; where only running tells, as many as at first."""
        slices = self._before[index].slices[channel]
        if isinstance(slices, int):
            return max((len(z) for z in self._chosen.slices.values()), default=1)
        return len(slices)

    def _call_planes(self, step: PlannedStep, fields: int, memory: MemoryType = "numpy") -> float:
        """Count the planes that the largest call of a step takes at its peak in a memory, beside those held."""
        if step.kind == "table":
            return 0.0
        needs = [use.need for uses in step.chains.values() for use in uses if use.memory == memory]
        if memory == "numpy":
            needs.append(1.0)  # what comes back from a GPU
        elif not needs:
            return 0.0
        depth = {
            "z": max((self._planes(step.index, name) for name in step.channels), default=0),
            "channel": len(step.channels),
            "field": fields,
            "t": self._chosen.size_t,
        }[step.stack]
        return max(needs) * depth

    def _stage_fingerprint(self, draft: DraftStage, *, way: bool = False) -> str:
        """Identify what the units of a stage have in common; on a way the last step's images are there, kept or not."""
        parts: list[str] = []
        if self._on_pixels(draft) and draft.starts_from is None:
            indices = {channel.name: c for c, channel in enumerate(self._plate.channels)}
            read = [(name, indices[name], self._chosen.slices[name]) for name in self._read_channels(draft)]
            parts.append(repr((self._source, self._chosen.size_t, read)))
        for index in draft.steps:
            step = self._steps[index]
            chains = [
                (key, [(use.fingerprint, use.kind, use.takes_context, use.takes) for use in uses])
                for key, uses in sorted(step.chains.items())
            ]
            inputs = [(i.keyword, i.kind, i.name, i.by_channel) for i in step.inputs]
            outputs = [(o.kind, o.name, o.by_channel) for o in step.outputs]
            # The names under which a unit's files hold what the step leaves.
            kept = None if way and index == draft.steps[-1] else step.keep_as
            state = step.index if step.kind == "reducer" else None
            made = made_channels(step) if step.kind == "pixels" else ()
            parts.append(repr((step.kind, step.stack, chains, step.channels, made, inputs, outputs, kept, state)))
            if step.grids and any(use.takes_context for uses in step.chains.values() for use in uses):
                parts.append(repr(sorted(step.grids.items())))
        python = f"python {sys.version_info[0]}.{sys.version_info[1]}"
        carries = "carries" if draft.carries else ""
        return combine(PLAN_VERSION, python, draft.kind, draft.scope, carries, self._plate.name, *parts)


def _groups(chosen: Chosen) -> dict[Scope, list[_Group]]:
    sizes: dict[int, int] = {}
    fields = []
    for well, field, image in chosen.fields:
        layout = image.layout
        size = sizes.get(id(layout))
        if size is None:
            size = sizes[id(layout)] = layout.plane_bytes
        facts = _facts(layout, field.position_um)
        fields.append(
            _Group((well.name, field.number), (image.id,), (f"{image.id}:{image.version}",), (facts,), (size,))
        )
    wells: dict[str | None, list[_Group]] = {}
    for group in fields:
        wells.setdefault(group.place[0], []).append(group)
    return {
        "field": fields,
        "well": [_joined((well, None), groups) for well, groups in wells.items()],
        "plate": [_joined((None, None), fields)],
    }


def _facts(layout: Layout, position_um: tuple[float, float] | None) -> str:
    return f"{position_um} {layout.pixel_size_um} {layout.z_step_um} {layout.t_step_s}"


def _joined(place: Place, groups: Sequence[_Group]) -> _Group:
    return _Group(
        place,
        tuple(image for group in groups for image in group.images),
        tuple(leaf for group in groups for leaf in group.leaves),
        tuple(facts for group in groups for facts in group.facts),
        tuple(size for group in groups for size in group.plane_bytes),
    )
