"""Standard pipelines on a synthetic plate, against what its cells are known to be."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import SCRATCH, environment, pin_threads

pin_threads()

from benchmarks.report import report  # noqa: E402 - threads are pinned first

if TYPE_CHECKING:
    import pandas as pd

    from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate

GOALS = {
    "count_error": ("<=", 0.01),
    "centre_error_px": ("<=", 0.5),
    "stitch_error_px": ("<=", 0.5),
    "ec50_error": ("<=", 0.1),
}


def spec_of(quick: bool) -> SyntheticPlate:
    """Return a plate of eight doses in four replicates; its stage is wrong by some pixels."""
    from openhcs_jupyter.repository.embedded.synthetic import SyntheticPlate

    rows, size, cells = (2, 540, 40) if quick else (4, 1080, 160)
    return SyntheticPlate(
        name="Truth", rows=rows, columns=8, size=size, cells_per_field=cells, stage_error_px=5.0, seed=7
    )


def steps() -> list[Any]:
    """Write the pipeline: even illumination, find the places of fields, nuclei, their intensities."""
    from openhcs_jupyter import functions as f
    from openhcs_jupyter.pipeline import ImageOutput, Labels, Step, Table

    return [
        Step(f.max_projection),
        Step(f.field_positions, channel="DAPI", outputs=Table("positions")),
        Step(f.IlluminationEstimate, {"sigma": 60}, outputs=ImageOutput("flat")),
        Step(f.correct_illumination, {"offset": 100.0}, inputs={"flat": "flat"}),
        Step(f.segment_nuclei, {"seed_distance": 4, "sigma": 1.5}, channel="DAPI", outputs=Labels("nuclei")),
        Step(f.measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
        Step(f.well_medians, inputs={"objects": "nuclei"}, outputs=Table("wells")),
    ]


def compared(spec: SyntheticPlate, found: pd.DataFrame) -> tuple[float, float]:
    """Return the relative error of the count, and the median distance in pixels of nuclei from their true centres.

    Of a field only what is not cut by its border is compared, on both sides.
    """
    import numpy as np
    import pandas as pd
    from scipy.spatial import cKDTree

    from openhcs_jupyter.repository.embedded.synthetic import true_cells

    true = pd.concat([true_cells(spec, well) for well in spec.wells])
    edge = 1.5 * spec.nucleus_px
    last = spec.size - 1 - edge

    def inside(table: pd.DataFrame) -> pd.DataFrame:
        return table[table["y"].between(edge, last) & table["x"].between(edge, last)]

    distances = []
    wrong = total = 0
    for (well, field), cells in inside(true).groupby(["well", "field"]):
        own = inside(found[(found["well"] == well) & (found["field"] == field)])
        wrong += abs(len(own) - len(cells))
        total += len(cells)
        distances.append(cKDTree(cells[["y", "x"]].to_numpy()).query(own[["y", "x"]].to_numpy())[0])
    return wrong / total, float(np.median(np.concatenate(distances)))


def stitched(spec: SyntheticPlate, positions: pd.DataFrame) -> float:
    """Return the largest distance in pixels of any field from its true place in its well."""
    import numpy as np

    origins = np.array([spec.origin(field) for field in range(1, spec.fields + 1)], dtype=float)
    worst = 0.0
    for _, own in positions.groupby("well"):
        away = own.sort_values("field")[["y", "x"]].to_numpy() - origins
        worst = max(worst, float(np.hypot(*(away - away.mean(axis=0)).T).max()))
    return worst


def ec50(spec: SyntheticPlate, wells: pd.DataFrame) -> float:
    """Fit a curve to the wells' medians of GFP; return the error of its EC50 in log10."""
    import numpy as np
    from scipy.optimize import curve_fit

    from openhcs_jupyter.repository.embedded.synthetic import true_wells

    table = wells.merge(true_wells(spec)[["well", "dose_um"]], on="well")

    def response(dose: Any, bottom: float, top: float, middle: float, slope: float) -> Any:
        return bottom + (top - bottom) / (1 + (10**middle / dose) ** slope)

    values = table["mean_GFP"].to_numpy(dtype=float)
    start = (values.min(), values.max(), 0.0, 1.0)
    found, _ = curve_fit(response, table["dose_um"].to_numpy(), values, p0=start, maxfev=20000)
    return float(abs(found[2] - np.log10(spec.ec50_um)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small plate; the figures mean nothing")
    arguments = parser.parse_args()
    import os

    os.environ.update(environment())
    from openhcs_jupyter.compiler import compile
    from openhcs_jupyter.engine import run
    from openhcs_jupyter.pipeline import Pipeline
    from openhcs_jupyter.repository.embedded import EmbeddedRepository
    from openhcs_jupyter.repository.embedded.synthetic import write_plate
    from openhcs_jupyter.topology import discover

    spec = spec_of(arguments.quick)
    folder = SCRATCH / "plates" / f"truth-{spec.rows}x{spec.size}"
    if not Path(folder).exists():
        write_plate(folder, spec)
    place = SCRATCH / "truth"
    shutil.rmtree(place, ignore_errors=True)
    repository = EmbeddedRepository(place)
    plate = repository.plate(repository.import_plate(folder).id)
    done = run(compile(Pipeline(steps(), "truth"), plate, discover(), workers=2)).result()
    found, positions = done.table("nuclei"), done.table("positions")
    count_error, centre_error = compared(spec, found)
    print(f"{len(found)} nuclei in {len(spec.wells)} wells x {spec.fields} fields; seed {spec.seed}")
    stage = positions.drop(columns=["y", "x"]).rename(columns={"stage_y": "y", "stage_x": "x"})
    print(f"stage alone: fields up to {stitched(spec, stage):.1f} px from their places")
    figures = {
        "count_error": count_error,
        "centre_error_px": centre_error,
        "stitch_error_px": stitched(spec, positions),
        "ec50_error": ec50(spec, done.table("wells")),
    }
    report("truth", figures, GOALS)


if __name__ == "__main__":
    main()
