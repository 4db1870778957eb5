"""Tables made from tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.contracts import Context, table

if TYPE_CHECKING:
    import pandas as pd

_PLACE = ("plate", "well")
_LEFT_OUT = ("field", "label")
STATISTICS = ("mean", "median", "std", "sum", "min", "max", "q25", "q75")
"""Names of statistics."""


@table(over="well")
def well_medians(objects: pd.DataFrame, context: Context | None = None) -> pd.DataFrame:
    """Count the objects of each well and take the median of every number.

    Parameters
    ----------
    objects
        One row an object, with a column ``well`` and, where there are several plates, ``plate``.
    context
        Names the well where it has no objects.

    Returns
    -------
    DataFrame
        One row a well: ``plate`` and ``well`` as they came, ``objects`` (how many), and the median of each numeric
        column but ``field`` and ``label``. A well without objects has 0 objects and medians of NaN.

    Raises
    ------
    UsageError
        If there is no column ``well``.
    """
    numbers = [name for name in objects.select_dtypes("number").columns if name not in (*_PLACE, *_LEFT_OUT, "objects")]
    if objects.empty:
        return _no_objects(numbers, context)
    keys = [name for name in _PLACE if name in objects.columns]
    if "well" not in keys:
        raise UsageError(
            "well_medians: the table has no column 'well'", f"It has {', '.join(map(str, objects.columns))}."
        )
    groups = objects.groupby(keys, sort=True, observed=True)
    medians = groups[numbers].median() if numbers else groups.size().to_frame()[[]]
    medians.insert(0, "objects", groups.size())
    return medians.reset_index()


@table(over="well")
def well_summary(
    objects: pd.DataFrame, statistics: Sequence[str] = ("mean", "std"), context: Context | None = None
) -> pd.DataFrame:
    """Count the objects of each well and take several statistics of every number.

    Parameters
    ----------
    objects
        One row an object, with a column ``well`` and, where there are several plates, ``plate``.
    statistics
        Of ``mean``, ``median``, ``std`` (of the sample), ``sum``, ``min``, ``max``, ``q25``, ``q75`` (quartiles).
    context
        Names the well where it has no objects.

    Returns
    -------
    DataFrame
        One row a well: ``plate`` and ``well`` as they came, ``objects`` (how many), and for each numeric column ``v``
        but ``field`` and ``label`` the columns ``v_mean`` and so on. NaN where it is not defined; a well without
        objects has 0 objects.

    Raises
    ------
    UsageError
        If there is no column ``well``, or a statistic is not known.
    """
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or isinstance(statistics, str) or not statistics:
        raise UsageError(
            f"well_summary: statistics is {statistics!r}",
            f'It is a list of {", ".join(STATISTICS)}, as ["mean", "std"].',
        )
    numbers = [name for name in objects.select_dtypes("number").columns if name not in (*_PLACE, *_LEFT_OUT, "objects")]
    if objects.empty:
        return _no_objects([f"{name}_{what}" for name in numbers for what in statistics], context)
    keys = [name for name in _PLACE if name in objects.columns]
    if "well" not in keys:
        raise UsageError(
            "well_summary: the table has no column 'well'", f"It has {', '.join(map(str, objects.columns))}."
        )
    import pandas as pd

    groups = objects.groupby(keys, sort=True, observed=True)
    quartiles = {"q25": 0.25, "q75": 0.75}
    chosen = groups[numbers]
    tables = {
        what: chosen.quantile(quartiles[what]) if what in quartiles else getattr(chosen, what)() for what in statistics
    }
    columns = {f"{name}_{what}": tables[what][name] for name in numbers for what in statistics}
    return pd.DataFrame({"objects": groups.size(), **columns}).reset_index()


def _no_objects(numbers: list[str], context: Context | None) -> pd.DataFrame:
    import pandas as pd

    place = {"plate": [context.plate], "well": [context.well]} if context else {}
    return pd.DataFrame({**place, "objects": [0], **{name: [float("nan")] for name in numbers}})
