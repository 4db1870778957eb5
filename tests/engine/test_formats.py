"""Runs on plates of other formats, and on plates whose files are not alike or do not stay as they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openhcs_jupyter import Step
from tests.engine.bench import Bench


def test_the_results_of_a_run_are_a_plate_again(bench: Bench) -> None:
    done = bench.done(Step(lambda stack: stack + 1, name="up", save=True), save=True)
    summary = bench.repository.import_plate(Path(done.results_at or "") / "up.ome.zarr")  # type: ignore[attr-defined]
    plate = bench.repository.plate(summary.id)
    assert [channel.name for channel in plate.channels] == ["DAPI", "GFP"]
    for (well, field), (_, source) in zip(plate.fields(), bench.plate.fields(), strict=True):
        assert field.position_um == pytest.approx(source.position_um)
        layout, before = field.images[0].layout, source.images[0].layout
        assert (layout.pixel_size_um, layout.z_step_um) == (before.pixel_size_um, before.z_step_um)
        with bench.repository.open(field.images[0]) as opened:
            for c in range(2):
                planes = np.stack([opened.plane(0, c, z) for z in range(3)])
                np.testing.assert_array_equal(planes, bench.pixels(well.name, field.number, c) + 1)
