"""Statistics of a plate, held to SciPy and to numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import median_abs_deviation

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import robust_z_scores, z_prime


def wells() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "plate": ["P"] * 6,
            "well": ["A01", "B01", "C01", "A02", "B02", "C02"],
            "objects": [10, 12, 14, 40, 44, 42],
            "area": [1.0, 1.0, 1.0, 3.0, np.nan, 5.0],
            "drug": ["none", "none", "none", "x", "x", "x"],
        }
    )


def test_scores_are_in_robust_standard_deviations_of_the_controls() -> None:
    table = robust_z_scores(wells(), ["A01", "B01", "C01"])
    assert list(table.columns) == list(wells().columns)
    assert table["drug"].tolist() == wells()["drug"].tolist()
    np.testing.assert_allclose(table["objects"], (wells()["objects"] - 12) / (1.4826 * 2))
    # The controls are all alike: there is nothing to measure a distance with.
    assert table["area"].isna().all()


def test_without_controls_all_wells_are_compared_with_each_other() -> None:
    values = wells()["objects"].to_numpy()
    expected = (values - np.median(values)) / median_abs_deviation(values, scale="normal")
    np.testing.assert_allclose(robust_z_scores(wells())["objects"], expected, rtol=1e-4)


def test_missing_values_stay_missing_and_do_not_count() -> None:
    table = robust_z_scores(wells(), ["A02", "B02", "C02"])
    assert table["area"].isna().tolist() == [False, False, False, False, True, False]
    assert table["area"].iloc[3] == pytest.approx(-1 / 1.4826)


def test_z_prime_is_that_of_its_definition() -> None:
    table = z_prime(wells(), positive=["A02", "B02", "C02"], negative=["A01", "B01", "C01"])
    assert table["feature"].tolist() == ["objects", "area"]
    row = table.iloc[0]
    assert (row["positive_mean"], row["positive_sd"]) == (42, 2)
    assert (row["negative_mean"], row["negative_sd"]) == (12, 2)
    assert row["z_prime"] == pytest.approx(1 - 3 * 4 / 30)
    assert table.loc[1, "positive_mean"] == 4


def test_equal_controls_have_no_z_prime() -> None:
    same = wells().assign(objects=5)
    assert np.isnan(z_prime(same, ["A02", "B02"], ["A01", "B01"]).loc[0, "z_prime"])


def test_the_table_given_is_left_as_it_was() -> None:
    table = wells()
    robust_z_scores(table)
    pd.testing.assert_frame_equal(table, wells())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda table: robust_z_scores(table, ["A01", "H12"]), "controls names H12, not in the table"),
        (lambda table: robust_z_scores(table, "A01"), "controls is 'A01'"),
        (lambda table: robust_z_scores(table, []), r"controls is \[\]"),
        (lambda table: robust_z_scores(table.drop(columns="well")), "no column 'well'"),
        (lambda table: z_prime(table, ["A01"], ["A02", "B02"]), "one positive well"),
        (lambda table: z_prime(table, ["A01", "A02"], ["A02", "B02"]), "A02 stand under positive and under negative"),
        (lambda table: z_prime(table.drop(columns="well"), ["A01"], ["A02"]), "no column 'well'"),
    ],
)
def test_what_does_not_fit_is_named(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(wells())
