"""Statistics of a plate against its control wells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.contracts import table

if TYPE_CHECKING:
    import pandas as pd

_MAD = 1.4826
"""Times the median absolute deviation: the standard deviation of what is normally distributed."""
_PLACE = ("plate", "well")


@table(over="plate")
def robust_z_scores(wells: pd.DataFrame, controls: Sequence[str] | None = None) -> pd.DataFrame:
    """Say how far each well lies from the controls, in their robust standard deviations.

    Parameters
    ----------
    wells
        One row a well, with a column ``well``, as `well_medians` makes it.
    controls
        Names of the wells to compare with, such as ``["A01", "B01"]``; None takes all wells of the plate.

    Returns
    -------
    DataFrame
        The rows and columns of `wells`; each numeric column ``v`` has become ``(v - median) / (1.4826 * MAD)``, the
        median and the median absolute deviation being those of the controls. NaN where the MAD is 0 or a value is NaN.

    Raises
    ------
    UsageError
        If there is no column ``well``, or a control is not in the table.

    Notes
    -----
    The robust z-score of Birmingham et al. (2009). Equal to `scipy.stats.median_abs_deviation` with
    ``scale="normal"`` up to the four digits of 1.4826.
    """
    import pandas as pd

    names = _features(wells, "robust_z_scores")
    values = wells[names].to_numpy(dtype=np.float64)
    reference = values
    if controls is not None:
        reference = values[_rows(wells, controls, "robust_z_scores", "controls")]
    middle = _medians(reference)
    spread = _MAD * _medians(np.abs(reference - middle))
    scored = (values - middle) / np.where(spread > 0, spread, np.nan)
    places = {name: index for index, name in enumerate(names)}
    columns = {name: scored[:, places[name]] if name in places else wells[name].array for name in wells.columns}
    return pd.DataFrame(columns, index=wells.index)


@table(over="plate")
def z_prime(wells: pd.DataFrame, positive: Sequence[str], negative: Sequence[str]) -> pd.DataFrame:
    """Compute the Z' factor of each feature: how well an assay tells its positive from its negative controls.

    Parameters
    ----------
    wells
        One row a well, with a column ``well``, as `well_medians` makes it.
    positive, negative
        Names of the control wells, such as ``["A01", "B01"]``; at least two each.

    Returns
    -------
    DataFrame
        One row a numeric column: ``feature``, ``z_prime``, and ``positive_mean``, ``positive_sd``, ``negative_mean``,
        ``negative_sd``. Z' is 1 at best; above 0.5 an assay counts as excellent. NaN where both means are equal.

    Raises
    ------
    UsageError
        If there is no column ``well``, a control is not in the table, is named twice over, or has less than two wells.

    Notes
    -----
    ``1 - 3 * (positive_sd + negative_sd) / abs(positive_mean - negative_mean)`` of Zhang et al. (1999), with sample
    standard deviations. Wells whose value is NaN are left out.
    """
    import pandas as pd

    both = sorted(set(positive) & set(negative))
    if both:
        raise UsageError(f"z_prime: {', '.join(both)} stand under positive and under negative")
    names = _features(wells, "z_prime")
    values = wells[names].to_numpy(dtype=np.float64)
    chosen = {
        kind: _rows(wells, given, "z_prime", kind) for kind, given in (("positive", positive), ("negative", negative))
    }
    for kind, rows in chosen.items():
        if np.count_nonzero(rows) < 2:
            raise UsageError(f"z_prime: there is one {kind} well; a standard deviation takes two")
    (high, high_sd), (low, low_sd) = (_mean_and_sd(values[rows]) for rows in chosen.values())
    distance = np.abs(high - low)
    factor = 1 - 3 * (high_sd + low_sd) / np.where(distance > 0, distance, np.nan)
    return pd.DataFrame(
        {
            "feature": names,
            "z_prime": factor,
            "positive_mean": high,
            "positive_sd": high_sd,
            "negative_mean": low,
            "negative_sd": low_sd,
        }
    )


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each column over what is not NaN."""
    if not np.isnan(values).any():
        return np.median(values, axis=0)
    import pandas as pd

    return pd.DataFrame(values).median().to_numpy()


def _mean_and_sd(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of the sample of each column over what is not NaN."""
    if not np.isnan(values).any():
        return values.mean(axis=0), values.std(axis=0, ddof=1)
    import pandas as pd

    table = pd.DataFrame(values)
    return table.mean().to_numpy(), table.std().to_numpy()


def _features(wells: pd.DataFrame, function: str) -> list[str]:
    if "well" not in wells.columns:
        raise UsageError(
            f"{function}: the table has no column 'well'",
            f"It has {', '.join(map(str, wells.columns))}. well_medians makes a table of wells.",
        )
    return [name for name in wells.select_dtypes("number").columns if name not in _PLACE]


def _rows(wells: pd.DataFrame, chosen: Sequence[str], function: str, parameter: str) -> NDArray[np.bool_]:
    """Tell which rows are of the chosen wells."""
    if isinstance(chosen, str) or not len(chosen):
        raise UsageError(f"{function}: {parameter} is {chosen!r}", 'It is a list of wells, such as ["A01", "B01"].')
    known = set(wells["well"])
    unknown = [well for well in chosen if well not in known]
    if unknown:
        raise UsageError(
            f"{function}: {parameter} names {', '.join(map(str, unknown))}, not in the table",
            "Wells are named as A01; the table has those of this run.",
        )
    rows: NDArray[np.bool_] = wells["well"].isin(list(chosen)).to_numpy()
    return rows
