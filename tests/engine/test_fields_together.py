"""Steps that take the fields of a well together, and what of them belongs to which field."""

from __future__ import annotations

from typing import Any

import numpy as np

from openhcs_jupyter.pipeline import Labels, Step, Table, image, measure, table
from tests.engine.bench import Bench


def test_a_table_of_each_field_takes_the_rows_of_its_field(bench: Bench) -> None:
    def centred(stack: Any) -> Any:
        return (stack - stack.mean(0)).astype(np.float32)

    @measure()
    def area(stack: Any) -> dict[str, int]:
        return {"area": int(stack.size)}

    @table(over="field")
    def rows(areas: Any) -> dict[str, int]:
        return {"rows": len(areas)}

    found = bench.done(
        Step(centred, stack="field"),
        Step(area, channel="DAPI", outputs=Table("areas")),
        Step(rows, inputs={"areas": "areas"}, outputs=Table("rows")),
    ).table("rows")
    assert list(found["rows"]) == [1, 1, 1, 1]
    assert list(found["field"]) == [1, 2, 1, 2]


def test_labels_made_from_all_fields_go_back_to_each(bench: Bench) -> None:
    def bright(stack: Any) -> Any:
        return stack, stack > stack.mean()

    labels = bench.done(Step(bright, stack="field", channel="DAPI", outputs=Labels("bright")))
    for well in bench.made.wells:
        for z in range(3):
            planes = np.stack([bench.made.plane(well, field, 0, z) for field in (1, 2)])
            for field in (1, 2):
                found = labels.labels("bright", well=well, field=field)[0, 0, z]
                np.testing.assert_array_equal(found, planes[field - 1] > planes.mean())


def test_a_function_that_joins_fields_without_saying_so_is_told_how(bench: Bench) -> None:
    def montage(stack: Any) -> Any:
        return stack.max(0, keepdims=True)

    failed = bench.run(Step(montage, stack="field"))
    assert failed.status == "failed"
    assert '@image(stack="field", depth="one")' in failed.failures[0].message


def test_labels_along_channels_are_one_plane(bench: Bench) -> None:
    @image(stack="channel")
    def both(stack: Any) -> Any:
        return stack, stack > 100

    failed = bench.run(Step(both, outputs=Labels("both")))
    assert "'both' has 2 planes" in failed.failures[0].message
