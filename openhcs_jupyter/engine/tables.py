"""Tables of units: Arrow between functions and files, pandas where a function or a user takes them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from openhcs_jupyter.compiler.plan import PlannedStep
from openhcs_jupyter.engine.calls import StepError
from openhcs_jupyter.engine.store import Writer, write_bytes
from openhcs_jupyter.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

ArrowTable: TypeAlias = Any
"""A ``pyarrow.Table``, which is not typed."""


def checked_table(step: PlannedStep, name: str, value: Any, place: Mapping[str, str | int]) -> ArrowTable:
    """Check what a function returned for a table.

    Parameters
    ----------
    step
        The step that makes it.
    name
        The output's name.
    value
        A ``DataFrame``, whose named index levels become columns; or a mapping of names to columns, or to single values.
    place
        What tells where it was made: the first columns, of one value each, unless the table has them itself.

    Raises
    ------
    StepError
        If it is neither, or its columns do not make a table.
    """
    import pandas as pd
    import pyarrow as pa

    if not isinstance(value, pd.DataFrame | Mapping):
        raise StepError(step.index, f"table {name!r} is {type(value).__name__}, not a DataFrame or a dict of columns")
    try:
        return _table(value, place)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError, ValueError) as error:
        raise StepError(step.index, f"table {name!r} cannot be made of its columns: {error}") from None


def _table(value: pd.DataFrame | Mapping[str, Any], place: Mapping[str, str | int]) -> ArrowTable:
    import pandas as pd
    import pyarrow as pa

    if isinstance(value, pd.DataFrame):
        if any(level is not None for level in value.index.names):
            value = value.reset_index()
        _require_single(list(value.columns))
        own = {str(label): _column(column) for label, column in value.items()}
    else:
        _require_single(list(value))
        single = all(np.ndim(column) == 0 for column in value.values())
        own = {str(label): _column([column] if single else column) for label, column in value.items()}
    rows = len(next(iter(own.values()), ()))
    columns = {label: own.pop(label) if label in own else _repeated(one, rows) for label, one in place.items()} | own
    return pa.table(list(columns.values()), names=list(columns))


def _require_single(labels: Sequence[Any]) -> None:
    """Refuse columns of one name: only one of them could stay."""
    count = Counter(map(str, labels))
    twice = [name for name, times in count.items() if times > 1]
    if twice:
        raise ValueError(f"several are named {', '.join(map(repr, twice))}")


def joined(tables: Sequence[ArrowTable]) -> ArrowTable:
    """Join tables below each other; columns of one name take the type that holds the values of all."""
    import pyarrow as pa

    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive")


def write_table(table: ArrowTable) -> Writer:
    """Return a writer of an Arrow file."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=_options()) as writer:
        writer.write_table(table)
    return write_bytes(sink.getvalue())


def warm_up() -> None:
    """Make a table once: what Arrow and pandas set up for the first one in a process takes some 10 ms."""
    write_table(_table({"label": np.arange(2)}, {"well": "A01", "field": 1}))


def read_tables(paths: Sequence[Path]) -> pd.DataFrame:
    """Read tables and join them in the order given; files that are not there are passed over.

    Raises
    ------
    RunError
        If a column has values in some that do not go together with those of others; names the table.
    """
    import pandas as pd
    import pyarrow as pa

    tables = []
    for path in paths:
        if path.exists():
            with pa.memory_map(str(path)) as source:
                tables.append(pa.ipc.open_file(source).read_all())
    if not tables:
        return pd.DataFrame()
    try:
        frame: pd.DataFrame = joined(tables).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        name = paths[0].name.removesuffix(".arrow").partition(".")[2]
        raise RunError(
            f"The tables {name!r} of different units do not go together: {error}",
            "Give each column values of one type in all wells and fields.",
        ) from error
    return frame


@functools.cache
def _options() -> Any:
    """Return how Arrow files are written; without, Arrow asks the environment for each one."""
    import pyarrow as pa

    return pa.ipc.IpcWriteOptions()


def _repeated(value: str | int, rows: int) -> Any:
    import pyarrow as pa

    return pa.repeat(pa.scalar(value, pa.string() if isinstance(value, str) else pa.int64()), rows)


def _column(values: Any) -> Any:
    import pandas as pd
    import pyarrow as pa

    if isinstance(values, np.ndarray):
        return pa.array(values)
    if isinstance(values, pd.Series) and isinstance(values.dtype, np.dtype) and values.dtype.kind in "biuf":
        values = values.to_numpy()
    return pa.array(values, from_pandas=isinstance(values, pd.Series))
