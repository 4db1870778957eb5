"""Writes a run's results into the repository: pixels by the workers, tables and provenance by the conductor."""

from __future__ import annotations

from openhcs_jupyter.engine.images import Pixels
from openhcs_jupyter.engine.program import Program, Work
from openhcs_jupyter.engine.results import read_pixels
from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository import FieldResults, Repository


def save_pixels(program: Program, work: Work, repository: Repository) -> None:
    """Write the images and labels of one field, of a well whose fields are joined, or of the plate."""
    writer = repository.writer(program.record)
    units = program.run_folder / "units"
    unit = work.unit
    arrays: dict[str, Pixels] = {}
    for spec in program.results:
        if spec.kind in ("image", "labels") and spec.scope == program.stages[unit.stage].scope:
            for parent in work.parents:
                pixels = read_pixels(units / parent.key, spec, unit.field)
                if pixels is not None:
                    arrays[spec.name] = pixels
                    break
            else:
                raise RepositoryError(f"{unit.well or 'The plate'}: there is no {spec.kind} {spec.name!r} to save")
    layout = work.sources[0].image.layout if work.sources else None
    writer.write_field(
        FieldResults(
            well=unit.well,
            field=unit.field,
            arrays=arrays,
            pixel_size_um=layout.pixel_size_um if layout else program.pixel_size_um,
            z_step_um=layout.z_step_um if layout else None,
            t_step_s=layout.t_step_s if layout else None,
            position_um=work.sources[0].position_um if unit.field else None,
            size=(layout.size_y, layout.size_x) if layout else None,
        )
    )
