"""Standard functions as steps of a run: what one makes reaches the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from openhcs_jupyter.functions import (
    IlluminationEstimate,
    PlatePercentiles,
    colocalisation,
    correct_illumination,
    count_objects,
    crop,
    cytoplasm,
    find_spots,
    focus_select,
    max_projection,
    measure_objects,
    normalize_with,
    ratio,
    robust_z_scores,
    segment_cells,
    segment_nuclei,
    subtract_channel,
    well_medians,
    z_prime,
)
from openhcs_jupyter.pipeline import ImageOutput, Labels, Points, Step, Table
from tests.engine.bench import Bench


def test_a_flat_field_of_each_channel_reaches_its_planes(bench: Bench) -> None:
    done = bench.done(
        Step(IlluminationEstimate, {"sigma": 3}, outputs=ImageOutput("flat")),
        Step(correct_illumination, inputs={"flat": "flat"}, save=True),
    )
    flats = done.image("flat")
    assert flats.shape == (1, 2, 1, 24, 32)
    for well, field in bench.places():
        corrected = done.image("correct_illumination", well=well, field=field)
        for c in range(2):
            expected = bench.pixels(well, field, c) / flats[0, c]
            np.testing.assert_allclose(corrected[0, c], expected, rtol=0, atol=0.51)


def test_percentiles_over_the_plate_reach_the_planes_of_their_channel(bench: Bench) -> None:
    done = bench.done(
        Step(PlatePercentiles, {"low": 5, "high": 95}, outputs=Table("limits")),
        Step(normalize_with, inputs={"limits": "limits"}, save=True),
    )
    limits = done.table("limits").set_index("channel")
    for c, channel in enumerate(("DAPI", "GFP")):
        pixels = np.concatenate([bench.pixels(well, field, c) for well, field in bench.places()])
        low, high = np.percentile(pixels.astype(np.float64), (5, 95))
        np.testing.assert_allclose(limits.loc[channel, ["low", "high"]].astype(float), [low, high])
        found = done.image("normalize_with", well="B02", field=2)[0, c]
        expected = (bench.pixels("B02", 2, c).clip(low, high) - low) * 65535 / (high - low)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1)


def test_nuclei_cells_cytoplasm_and_spots(bench: Bench) -> None:
    done = bench.done(
        Step(focus_select),
        Step(segment_nuclei, {"min_contrast": 0, "min_area": 5}, channel="DAPI", outputs=Labels("nuclei")),
        Step(segment_cells, channel="GFP", inputs={"nuclei": "nuclei"}, outputs=Labels("cells")),
        Step(cytoplasm, inputs={"cells": "cells", "nuclei": "nuclei"}, outputs=Labels("cytoplasm")),
        Step(find_spots, {"min_contrast": 0}, channel="GFP", outputs=Points("spots")),
        Step(count_objects, inputs={"labels": "cells"}, outputs=Table("counts")),
        Step(colocalisation, inputs={"labels": "cells"}, outputs=Table("colocalisation")),
        Step(measure_objects, inputs={"labels": "cells"}, outputs=Table("objects")),
        Step(well_medians, inputs={"objects": "objects"}, outputs=Table("wells")),
        Step(robust_z_scores, inputs={"wells": "wells"}, outputs=Table("scores")),
    )
    counts = done.table("counts").set_index(["well", "field"])
    for well, field in bench.places():
        nuclei, cells, rest = (
            done.labels(name, well=well, field=field)[0, 0, 0] for name in ("nuclei", "cells", "cytoplasm")
        )
        assert nuclei.max() > 0
        assert np.array_equal(cells[nuclei > 0], nuclei[nuclei > 0])
        assert np.array_equal(rest, np.where(nuclei > 0, 0, cells))
        assert counts.loc[(well, field), "objects"] == nuclei.max()
    assert len(done.table("colocalisation")) == len(done.table("objects")) == counts["objects"].sum()
    assert set(done.table("spots")["channel"]) == {"GFP"}
    assert done.table("scores")["well"].tolist() == ["A01", "B02"]


def test_planes_are_cut_and_channels_mixed(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(z=2)
    done = bench.done(
        Step(max_projection),
        Step(crop, {"y": 2, "x": 4, "height": 10, "width": 20}),
        Step(subtract_channel, {"channel": "DAPI", "factor": 0.5}, save=True),
        Step(ratio, {"numerator": "GFP", "denominator": "DAPI"}, save=True),
    )
    for well, field in bench.places():
        both = done.image("subtract_channel", well=well, field=field)
        assert both.shape == (1, 2, 1, 10, 20)
        dapi, gfp = both[0, :, 0].astype(np.float64)
        found = done.image("ratio", well=well, field=field)[0, 0, 0]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.divide(gfp, dapi, out=np.zeros_like(gfp), where=dapi > 0), rtol=1e-6)


def test_z_prime_of_a_plate(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(wells=("A01", "A02", "B01", "B02"), fields=1, z=1)
    done = bench.done(
        Step(segment_nuclei, {"min_contrast": 0, "min_area": 5}, channel="DAPI", outputs=Labels("nuclei")),
        Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("objects")),
        Step(well_medians, inputs={"objects": "objects"}, outputs=Table("wells")),
        Step(
            z_prime,
            {"positive": ["A01", "B01"], "negative": ["A02", "B02"]},
            inputs={"wells": "wells"},
            outputs=Table("quality"),
        ),
    )
    quality = done.table("quality").set_index("feature")
    wells = done.table("wells").set_index("well")
    assert quality.loc["area", "positive_mean"] == wells.loc[["A01", "B01"], "area"].mean()
