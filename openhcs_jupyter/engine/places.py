"""The source images of every place of a plate that a run takes."""

from __future__ import annotations

from openhcs_jupyter.compiler.plan import ExecutionPlan, Unit
from openhcs_jupyter.engine.program import Source


class Places:
    """The chosen images of a plan's plate, by field and by well."""

    """The source images of each unit's place."""

    def __init__(self, plan: ExecutionPlan) -> None:
        chosen = {image for unit in plan.units for image in unit.images}
        self._by_field: dict[tuple[str, int], tuple[Source, ...]] = {}
        self._by_well: dict[str, tuple[Source, ...]] = {}
        for well, field in plan.plate.fields():
            for image in field.images:
                if image.id in chosen:
                    source = Source(field=field.number, image=image, position_um=field.position_um)
                    self._by_field[well.name, field.number] = (source,)
                    self._by_well[well.name] = (*self._by_well.get(well.name, ()), source)

    def sources(self, unit: Unit) -> tuple[Source, ...]:
        """Return the images of the fields within a unit's place; none where it is the whole plate."""
        if unit.well is None:
            return ()
        if unit.field is None:
            return self._by_well.get(unit.well, ())
        return self._by_field.get((unit.well, unit.field), ())
