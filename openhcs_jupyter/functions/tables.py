"""Tables made from tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline.contracts import Context, table

if TYPE_CHECKING:
    import pandas as pd

_PLACE = ("plate", "well")
_LEFT_OUT = ("field", "label")


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


def _no_objects(numbers: list[str], context: Context | None) -> pd.DataFrame:
    import pandas as pd

    place = {"plate": [context.plate], "well": [context.well]} if context else {}
    return pd.DataFrame({**place, "objects": [0], **{name: [float("nan")] for name in numbers}})
