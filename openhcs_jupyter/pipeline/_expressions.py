"""Writes values as expressions of Python; what has a name is left to whoever knows the names."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import pathlib
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np

from openhcs_jupyter.pipeline.openhcs import FunctionStep, is_function_step
from openhcs_jupyter.pipeline.openhcs.plain import plain_step
from openhcs_jupyter.pipeline.step import Step, function_name


class Unsayable(Exception):  # noqa: N818 - no error to a user: it is caught where it is raised
    """Says what it is that has no source.

    Parameters
    ----------
    what
        The thing.
    where
        Within a container: which item of it, as it would be written.
    """

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"{what}, at {where}" if where else what)
        self.what = what
        self.where = where

    def within(self, item: str) -> Unsayable:
        """Return the same for the container that holds it under `item`."""
        return Unsayable(self.what, f"{item}{self.where}")


class Expressions(ABC):
    """Writes values as expressions, and gathers the imports that these need."""

    def __init__(self) -> None:
        self.imports: set[str] = set()

    @abstractmethod
    def refer(self, value: Any) -> str:
        """Write a function or class by a name that stands for it."""

    def say(self, value: Any, depth: int = 0) -> str:
        """Write a value as an expression.

        Raises
        ------
        Unsayable
            If it, or something in it, cannot be written.
        """
        kind = type(value)
        if depth > 50:
            raise Unsayable("a container that is nested too deeply, or holds itself")

        def say(item: object) -> str:
            return self.say(item, depth + 1)

        def each(items: Iterable[object]) -> list[str]:
            return [_located(say, item, f"[{index}]") for index, item in enumerate(items)]

        if value is None or value is ... or kind in {bool, int, str, bytes, range, slice}:
            return repr(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if kind is complex:
            return f"complex({say(value.real)}, {say(value.imag)})"
        if kind is list:
            return f"[{', '.join(each(value))}]"
        if kind is tuple:
            items = each(value)
            return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
        if kind in {set, frozenset}:
            inside = f"{{{', '.join(sorted(map(say, value)))}}}" if value else ""
            return f"{kind.__name__}({inside})"
        if kind is dict:
            pairs = [f"{say(key)}: {_located(say, item, f'[{key!r}]')}" for key, item in value.items()]
            return f"{{{', '.join(pairs)}}}"
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            self.imports.add("import numpy")
            return f"numpy.dtype({value.dtype.str!r}).type({say(value.item())})"
        if isinstance(value, np.dtype) and not value.hasobject and value.names is None:
            self.imports.add("import numpy")
            return f"numpy.dtype({value.str!r})"
        if isinstance(value, pathlib.PurePath):
            self.imports.add("import pathlib")
            return f"pathlib.{'Path' if isinstance(value, pathlib.Path) else kind.__name__}({str(value)!r})"
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return f"{self.refer(kind)}[{value.name!r}]"
        if isinstance(value, functools.partial):
            self.imports.add("import functools")
            given = [*each(value.args), *(f"**{say(value.keywords)}" for _ in range(bool(value.keywords)))]
            return f"functools.partial({', '.join([say(value.func), *given])})"
        if isinstance(value, Step):
            return self._say_step(value, depth)
        if is_function_step(value):
            given = [f"{name}={_located(say, item, f'{name}=')}" for name, item in plain_step(value).items()]
            return f"{self.refer(FunctionStep)}({', '.join(given)})"
        if isinstance(value, msgspec.Struct):
            return self._say_fields(value, value.__struct_fields__, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._say_fields(value, [field.name for field in dataclasses.fields(value) if field.init], depth)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._say_fields(value, value._fields, depth)
        if isinstance(value, type) or callable(value):
            return self.refer(value)
        raise Unsayable(describe(value))

    def _say_fields(self, value: Any, fields: Iterable[str], depth: int) -> str:
        said = []
        for name in fields:
            text = _located(lambda item: self.say(item, depth + 1), getattr(value, name), f".{name}")
            said.append(f"{name}={text}")
        return f"{self.refer(type(value))}({', '.join(said)})"

    def _say_step(self, step: Step, depth: int) -> str:
        def say(item: object) -> str:
            return self.say(item, depth + 1)

        said = [say(step.function)]
        if step.params:
            said.append(_located(say, step.params, "params"))
        plain: dict[str, object] = {"stack": None, "channel": None, "inputs": {}, "outputs": (), "save": False}
        if step.name != function_name(step.function):
            plain["name"] = None
        options = [name for name, default in plain.items() if getattr(step, name) != default]
        said += [f"{name}={say(getattr(step, name))}" for name in options]
        return f"{self.refer(Step)}({', '.join(said)})"


def describe(value: Any) -> str:
    """Say what a thing is that cannot be written."""
    kind = type(value)
    what = (
        f"{kind.__module__}.{kind.__qualname__}"
        if kind.__module__ not in {"builtins", "__main__"}
        else kind.__qualname__
    )
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}, {' x '.join(map(str, value.shape))}"
    if kind.__module__.partition(".")[0] == "pandas" and hasattr(value, "shape"):
        return f"a {what}, {' x '.join(map(str, value.shape))}"
    if isinstance(value, types.FunctionType | type):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__qualname__!r}"
    return f"an object of type {what}"


def _located(say: Callable[[Any], str], item: object, where: str) -> str:
    try:
        return say(item)
    except Unsayable as error:
        raise error.within(where) from None
