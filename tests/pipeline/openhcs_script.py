"""Runs a cell of OpenHCS's own objects, and the same functions in plain loops; run where OpenHCS is installed."""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from openhcs_jupyter.compiler import Selection
from openhcs_jupyter.door import Source, define_steps
from openhcs_jupyter.pipeline import adapt
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.engine.bench import Bench
from tests.plates import write_plate

CELL = """
import numpy as np
from arraybridge.decorators import DtypeConversion
from openhcs.constants.constants import GroupBy, VariableComponents
from openhcs.core.config import (
    LazyDtypeConfig,
    LazyNapariStreamingConfig,
    LazyProcessingConfig,
    LazyStepMaterializationConfig,
    LazyStepWellFilterConfig,
    PipelineConfig,
)
from openhcs.core.memory import numpy
from openhcs.core.steps.function_step import FunctionStep
from openhcs.processing.backends.analysis.cell_counting_cpu import DetectionMethod, count_cells_single_channel
from openhcs.processing.backends.lib_registry.unified_registry import ProcessingContract
from openhcs.processing.backends.processors.numpy_processor import (
    NumpyStackProjectionMethod,
    create_composite,
    create_projection,
    gaussian_blur,
    sharpen,
    stack_percentile_normalize,
    tophat,
)


@numpy(contract=ProcessingContract.PURE_2D)
def from_zero(plane):
    assert plane.ndim == 2
    return plane - plane.min()


@numpy
def half(image):
    return image * 0.5


along_z = LazyProcessingConfig(variable_components=[VariableComponents.Z_INDEX], group_by=GroupBy.CHANNEL)
kept = LazyStepMaterializationConfig(enabled=True)
wells = LazyStepWellFilterConfig(well_filter="row:B")
normalize = (stack_percentile_normalize, {"low_percentile": 1.0, "high_percentile": 99.0})
pipeline_config = PipelineConfig(step_well_filter_config=wells)
pipeline_steps = [
    FunctionStep(
        func={
            "1": [normalize, (gaussian_blur, {"sigma": 1.0, "slice_by_slice": False})],
            "2": [normalize, (tophat, {"selem_radius": 5, "downsample_factor": 2})],
        },
        name="preprocess",
        processing_config=along_z,
    ),
    FunctionStep(func=sharpen, name="off", enabled=False),
    FunctionStep(func=[from_zero], name="planes", processing_config=along_z, step_materialization_config=kept),
    FunctionStep(
        func=half,
        name="scaled",
        processing_config=along_z,
        step_materialization_config=kept,
        dtype_config=LazyDtypeConfig(default_dtype_conversion=DtypeConversion.PRESERVE_INPUT),
    ),
    FunctionStep(func=half, name="native", processing_config=along_z, step_materialization_config=kept),
    FunctionStep(
        func=(create_projection, {"method": NumpyStackProjectionMethod.MAX}),
        name="projection",
        processing_config=along_z,
        step_materialization_config=kept,
        napari_streaming_config=LazyNapariStreamingConfig(enabled=True),
    ),
    FunctionStep(
        func={"1": (count_cells_single_channel, {"detection_method": DetectionMethod.WATERSHED, "min_cell_area": 2})},
        name="count",
        processing_config=along_z,
    ),
    FunctionStep(
        func=create_composite,
        name="composite",
        processing_config=LazyProcessingConfig(variable_components=[VariableComponents.CHANNEL], group_by=GroupBy.NONE),
        step_materialization_config=kept,
    ),
]
"""


def _pure(function: Any) -> Any:
    return inspect.unwrap(function)


def _same(given: np.ndarray, wanted: np.ndarray) -> bool:
    return given.dtype == wanted.dtype and given.shape == wanted.shape and bool((given == wanted).all())


def _main(folder: Path) -> None:
    made = write_plate(folder / "plate", wells=("A01", "B01", "B02"), size=(48, 64))
    cell: dict[str, Any] = {"__name__": "__main__"}
    answer: dict[str, Any] = {}
    with EmbeddedRepository(folder / "repository") as repository:
        plate = repository.plate(repository.import_plate(made.folder).id)
        bench = Bench(repository, made, plate, folder)
        adapted = adapt(define_steps(Source("Cell In[1]", CELL, "<cell>"), CELL, cell), plate)
        answer["wells"] = adapted.wells
        answer["notes"] = [what for what, _ in adapted.notes]
        answer["view"] = [[step, asked.host, asked.port] for asked in adapted.view for step in asked.steps]
        answer["lines"] = all(step.line > 0 for step in adapted.steps)
        run = bench.done(*adapted.steps, selection=Selection(wells=adapted.wells))
        right: dict[str, list[bool]] = {}
        for well in adapted.wells or ():
            for field in (1, 2):
                flat = []
                for c in (0, 1):
                    stack = np.stack([made.plane(well, field, c, z) for z in range(3)])
                    # The plain loop: OpenHCS's own functions as they stand in its modules.
                    stack = cell["stack_percentile_normalize"](stack, low_percentile=1.0, high_percentile=99.0)
                    if c == 0:
                        stack = cell["gaussian_blur"](stack, sigma=1.0)
                    else:
                        stack = cell["tophat"](stack, selem_radius=5, downsample_factor=2)
                    planes = np.stack([_pure(cell["from_zero"])(plane) for plane in stack])
                    scaled = cell["half"](planes)
                    native = _pure(cell["half"])(scaled)
                    projection = _pure(cell["create_projection"])(native)
                    for name, wanted in (
                        ("planes", planes),
                        ("scaled", scaled),
                        ("native", native),
                        ("projection", projection[None]),
                    ):
                        given = run.image(name, well=well, field=field)[0, c]
                        right.setdefault(name, []).append(_same(given, wanted))
                    if c == 0:
                        counted, rows, masks = _pure(cell["count_cells_single_channel"])(
                            projection[None], detection_method=cell["DetectionMethod"].WATERSHED, min_cell_area=2
                        )
                        table = run.table("cell_counts")
                        table = table[(table["well"] == well) & (table["field"] == field)]
                        counts = list(rows.column_values("cell_count"))
                        right.setdefault("counts", []).append(list(table["cell_count"]) == counts)
                        areas = [json.loads(text) for text in table["cell_areas"]]
                        wanted_areas = [list(each) for each in rows.column_values("cell_areas")]
                        right.setdefault("areas", []).append(areas == wanted_areas)
                        labels = run.labels("segmentation_masks", well=well, field=field)
                        right.setdefault("labels", []).append(bool((labels[0, 0] == masks).all()))
                        answer["cells"] = answer.get("cells", 0) + sum(counts)
                        projection = counted[0]
                    flat.append(projection)
                composite = _pure(cell["create_composite"])(np.stack(flat))
                given = run.image("composite", well=well, field=field)[0, 0]
                right.setdefault("composite", []).append(_same(given, composite[None]))
        answer["right"] = {name: (sum(each), len(each)) for name, each in right.items()}
        answer["versions"] = sorted(run.record.versions)
    print("ANSWER", json.dumps(answer))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
