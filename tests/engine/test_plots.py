"""Plots of a run's tables show the numbers of the tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from openhcs_jupyter import Step, Table, measure
from openhcs_jupyter.engine import Run
from openhcs_jupyter.errors import RunError, UsageError
from tests.engine.bench import Bench

WELLS = ("A01", "A02", "A03", "B01", "B02", "C03")
DOSES = dict(zip(WELLS, (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0), strict=True))
ARTEFACTS = Path(__file__).resolve().parents[2] / "test-artefacts"


@pytest.fixture
def pyplot() -> Iterator[Any]:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


@pytest.fixture
def answered(make_bench: Callable[..., Bench]) -> Run:
    """A run whose table has ten objects a well; their brightness follows the dose: half of 100 at 1."""

    @measure(stack="channel")
    def objects(stack: Any, context: Any) -> Any:
        from tests.engine.test_plots import DOSES

        dose = DOSES[context.well]
        spread = np.linspace(-5, 5, 10)
        return pd.DataFrame({"bright": 10 + 100 * dose / (dose + 1) + spread, "size": spread + 20})

    bench = make_bench(wells=WELLS, fields=1, z=1)
    return bench.done(Step(objects, outputs=Table("objects")))


def _kept(axes: Any, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    axes.figure.savefig(ARTEFACTS / f"{name}.png", dpi=100)


def test_a_distribution_of_each_well_is_a_box_around_its_median(answered: Run, pyplot: Any) -> None:
    axes = answered.plot("bright", by="well")
    medians = [line.get_ydata()[0] for line in axes.lines if line.get_color() == "#d55e00"]
    expected = answered.table("objects").groupby("well")["bright"].median()
    np.testing.assert_allclose(medians, expected)
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(WELLS)
    _kept(axes, "plot-by-well")


def test_a_heat_map_has_each_well_in_its_place_and_marks_those_without_a_value(answered: Run, pyplot: Any) -> None:
    axes = answered.plot("bright", by="plate")
    shown = axes.images[0].get_array()
    assert shown.shape == (3, 3)
    assert shown[2, 2] == pytest.approx(10 + 100 * 1000 / 1001, abs=1)
    assert shown.mask[2, 0]
    assert len(axes.lines) == 3
    _kept(axes, "plot-heatmap")


def test_a_dose_response_finds_the_dose_of_half_the_effect(answered: Run, pyplot: Any) -> None:
    layout = pd.DataFrame({"well": list(DOSES), "dose_um": list(DOSES.values())})
    axes = answered.plot("bright", by="dose_um", layout=layout)
    told = next(text.get_text() for text in axes.get_legend().get_texts() if "EC50" in text.get_text())
    assert float(told.split("=")[1]) == pytest.approx(1.0, rel=0.05)
    _kept(axes, "plot-dose")


def test_without_by_there_is_one_histogram_of_all_objects(answered: Run, pyplot: Any) -> None:
    axes = answered.plot("size")
    assert sum(bar.get_height() for bar in axes.patches) == 60


def test_a_column_that_is_not_there_is_named_with_what_is_near(answered: Run) -> None:
    with pytest.raises(RunError, match="Did you mean 'bright'"):
        answered.plot("brightt")
    with pytest.raises(UsageError, match="no column 'doses' to plot by"):
        answered.plot("bright", by="doses")
