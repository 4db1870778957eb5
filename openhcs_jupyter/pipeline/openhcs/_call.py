"""OpenHCS's functions in their pure form, called as their contract says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.pipeline.contracts import Contract
from openhcs_jupyter.pipeline.outputs import OutputKind

if TYPE_CHECKING:
    import pandas as pd

SLICE = "slice_index"
"""Column that tells the plane, from 0, of a row made plane by plane; OpenHCS's name for it."""
KEEP, AS_INPUT = "NATIVE_OUTPUT", "PRESERVE_INPUT"


class PureFunction(msgspec.Struct, frozen=True):
    """A function of OpenHCS without its wrappers: takes and returns stacks ``(N, Y, X)``, then its outputs."""

    pure: Callable[..., Any]
    by_plane: bool = False
    """It takes and returns planes ``(Y, X)``."""
    flattens: bool = False
    """It returns one plane ``(Y, X)`` for a stack."""
    dtype: str = KEEP
    """Member of OpenHCS's ``DtypeConversion`` that says what becomes of the pixel type."""
    outputs: tuple[OutputKind, ...] = ()
    aligned: tuple[str, ...] = ()
    """Parameters that take an earlier output; one of pixels has a plane for each of the stack's."""

    @property
    def __name__(self) -> str:
        """Of the pure function."""
        return str(self.pure.__name__)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """For signatures, and for the modules that workers import beforehand."""
        return self.pure

    @property
    def __openhcs__(self) -> Contract:
        """What is known of the function before it is called."""
        return Contract(kind="image", depth="same" if self.by_plane else "one" if self.flattens else "any")

    def __call__(self, stack: Any, **params: Any) -> Any:
        """Call the pure function, plane by plane where it takes planes.

        Raises
        ------
        ValueError
            If it returns another number of outputs than it declares.
        TypeError
            If an output is not what it declares.
        """
        if not self.by_plane:
            image, values = self._call(stack, params)
            if self.flattens and np.ndim(image) == 2:
                image = image[None]
        else:
            planes = [self._call(plane, self._of_plane(params, i, len(stack))) for i, plane in enumerate(stack)]
            image = np.stack([plane for plane, _ in planes])
            values = [
                _joined(kind, [made[position] for _, made in planes]) for position, kind in enumerate(self.outputs)
            ]
        return (image, *values) if self.outputs else image

    def _call(self, pixels: Any, params: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        result = self.pure(pixels, **params)
        image, *values = result if isinstance(result, tuple) else (result,)
        if len(values) != len(self.outputs):
            raise ValueError(f"{self.__name__} returned {len(values)} outputs, and declares {len(self.outputs)}")
        made = [_output(self.__name__, kind, value) for kind, value in zip(self.outputs, values, strict=True)]
        return _converted(image, pixels.dtype, self.dtype), made

    def _of_plane(self, params: Mapping[str, Any], index: int, count: int) -> dict[str, Any]:
        return {
            name: value[index]
            if name in self.aligned and isinstance(value, np.ndarray) and value.ndim == 3 and len(value) == count
            else value
            for name, value in params.items()
        }


def _converted(image: Any, given: np.dtype[Any], rule: str) -> Any:
    """Bring pixels into the type that a rule of OpenHCS's asks for, by OpenHCS's own scaling."""
    if rule == KEEP:
        return image
    wanted = given if rule == AS_INPUT else np.dtype(rule.lower())
    if image.dtype == wanted and rule == AS_INPUT:
        return image
    return import_module("arraybridge.types").MemoryType.NUMPY.scale_dtype(image, wanted.name)


def _output(function: str, kind: OutputKind, value: Any) -> Any:
    if kind == "table":
        return _frame(function, value)
    if isinstance(value, list | tuple) and value and all(isinstance(plane, np.ndarray) for plane in value):
        return np.stack(value)
    return value


def _frame(function: str, value: Any) -> pd.DataFrame:
    """Make a data frame of OpenHCS's rows: columns by name, rows that are dataclasses or mappings, or plain tuples."""
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        return value
    if hasattr(value, "column_values") and hasattr(value, "columns"):
        columns = {str(name): list(value.column_values(name)) for name in value.columns}
        return pd.DataFrame({name: _cells(column) for name, column in columns.items()})
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list | tuple):
        rows = [_row(row) for row in value]
        frame = pd.DataFrame(rows)
        frame.columns = [str(name) for name in frame.columns]
        return pd.DataFrame({name: _cells(list(column)) for name, column in frame.items()})
    raise TypeError(
        f"{function} returned {type(value).__name__} for a table; "
        "write it as Step(function, outputs=Labels(...) or ImageOutput(...)), or return rows"
    )


def _row(row: Any) -> Any:
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        # Arrays within a row, such as masks, are no cells of a table.
        fields = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        return {name: cell for name, cell in fields.items() if not isinstance(cell, np.ndarray)}
    return row


def _cells(column: list[Any]) -> list[Any]:
    """Write lists and dicts within cells as JSON, which every row can hold whatever is in it."""
    if not any(isinstance(cell, list | tuple | Mapping) for cell in column):
        return column
    return [msgspec.json.encode(cell, enc_hook=_plain).decode() for cell in column]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _joined(kind: OutputKind, values: Sequence[Any]) -> Any:
    """Join what was made plane by plane."""
    if kind != "table":
        return np.stack(values)
    import pandas as pd

    frames = []
    for index, frame in enumerate(values):
        if SLICE in frame.columns:
            frames.append(frame.assign(**{SLICE: index}))
        else:
            told = frame.copy()
            told.insert(0, SLICE, index)
            frames.append(told)
    return pd.concat(frames, ignore_index=True)
