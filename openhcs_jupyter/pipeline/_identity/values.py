"""What is taken in of plain values: containers, arrays, data frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from openhcs_jupyter.pipeline._identity.walk import Walk


def take_items(walk: Walk, value: Iterable[object]) -> None:
    items = list(value)
    walk.tag(type(value).__name__, len(items))
    for index, item in enumerate(items):
        with walk.at(f"[{index}]"):
            walk.value(item)


def take_set(walk: Walk, value: Iterable[object]) -> None:
    digests = sorted(walk.apart(item) for item in value)
    walk.tag(type(value).__name__, *digests)


def take_dict(walk: Walk, value: Mapping[object, object]) -> None:
    # A function may go through a dict in its order, so the order counts.
    walk.tag(type(value).__name__, len(value))
    for key, item in value.items():
        walk.value(key)
        with walk.at(f"[{key!r}]"):
            walk.value(item)


def take_defaultdict(walk: Walk, value: defaultdict[object, object]) -> None:
    walk.value(value.default_factory)
    take_dict(walk, value)


def take_array(walk: Walk, value: np.ndarray[Any, Any]) -> None:
    walk.tag("array", type(value).__name__, repr(value.dtype), *value.shape)
    if isinstance(value, np.ma.MaskedArray):
        take_array(walk, np.ma.getmaskarray(value))
        value = value.filled()
    plain = np.asarray(value)
    if plain.dtype.hasobject:
        with walk.at("[...]"):
            walk.value(plain.tolist())
    else:
        walk.data(np.ascontiguousarray(plain).tobytes() if plain.dtype.names or not plain.size else _bytes_of(plain))


def take_pandas(walk: Walk, value: Any) -> bool:
    if type(value).__module__.partition(".")[0] != "pandas":
        return False
    import pandas as pd

    if value is pd.NaT or value is pd.NA:
        walk.tag("missing", repr(value))
    elif isinstance(value, pd.Timestamp | pd.Timedelta):
        walk.tag("time", type(value).__name__, value.isoformat(), value.unit, str(getattr(value, "tz", None)))
    elif isinstance(value, pd.DataFrame):
        walk.tag("frame", *value.shape)
        for index, name in enumerate(value.columns):
            walk.value(name)
            with walk.at(f"[{name!r}]"):
                _column(walk, value.iloc[:, index])
        walk.value(tuple(value.columns.names))
        _column(walk, value.index)
    elif isinstance(value, pd.Series):
        walk.tag("series")
        walk.value(value.name)
        _column(walk, value)
        _column(walk, value.index)
    elif isinstance(value, pd.Index):
        walk.tag("index")
        _column(walk, value)
    elif isinstance(value, pd.api.extensions.ExtensionDtype):
        walk.tag("dtype", repr(value))
    else:
        return False
    return True


def _column(walk: Walk, value: Any) -> None:
    walk.tag("column", str(value.dtype))
    if hasattr(value, "names"):
        walk.value(tuple(value.names))
    if isinstance(value.dtype, np.dtype):
        take_array(walk, value.to_numpy())
    else:
        walk.value(list(value.astype(object)))
        if hasattr(value.dtype, "categories"):
            walk.tag(str(value.dtype.ordered))
            walk.value(list(value.dtype.categories))


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)
