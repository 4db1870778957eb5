"""Writes values, functions and classes as source code, each after those that it needs itself."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import functools
import inspect
import itertools
import keyword
import math
import pathlib
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import numpy as np

from openhcs_jupyter.pipeline._names import annotations_stay_unread, compiled, needs_of, references
from openhcs_jupyter.pipeline._origins import inner_of, statement_of, within
from openhcs_jupyter.pipeline._packages import holder_of, module_dict, place_of
from openhcs_jupyter.pipeline.openhcs import FunctionStep, is_function_step
from openhcs_jupyter.pipeline.openhcs.plain import plain_step
from openhcs_jupyter.pipeline.step import Step, function_name

_LONGEST = 20_000
"""Characters of a constant; more is data and belongs in a file."""


class Unsayable(Exception):  # noqa: N818
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


class Writer:
    """Gathers the text of every name that is needed, each after those that it needs itself.

    Parameters
    ----------
    namespace
        Where names are looked up, unless the function that needs them has another.
    bound
        Names that the text to which this is written sets itself.
    """

    def __init__(self, namespace: Mapping[str, Any], bound: frozenset[str] = frozenset()) -> None:
        self.namespace = namespace
        self.bound = bound
        self.imports: set[str] = set()
        self.texts: list[str] = []
        self.problems: dict[str, str] = {}
        """By name: what cannot be written."""
        self._taken: dict[str, object] = {}
        """What stands under each name that was written, or tried."""
        self._open: set[int] = set()
        """Inner functions that are being written."""

    def text(self, futures: Iterable[str] = ()) -> str:
        """Return all that was written, imports first."""
        futures = set(futures)
        if annotations_stay_unread(self.namespace):
            futures.add("from __future__ import annotations")
        texts = (f"\n{text}" if "\n" in text else text for text in self.texts)
        return "\n".join([*sorted(futures), *_together(self.imports), *texts])

    def write(self, name: str, namespace: Mapping[str, Any] | None = None) -> None:
        """Write what a name stands for, once."""
        namespace = self.namespace if namespace is None else namespace
        if name not in namespace or (name.startswith("__") and name.endswith("__")):
            return
        value = namespace[name]
        if name in self._taken:
            if self._taken[name] is not value and name not in self.problems:
                self.problems[name] = f"{describe(value)}, and beside it {describe(self._taken[name])} of this name"
            return
        self._taken[name] = value
        if getattr(builtins, name, self) is value:
            return
        try:
            self._write(name, value, namespace)
        except Unsayable as error:
            self.problems[name] = str(error)

    def submodules(self, code: types.CodeType, namespace: Mapping[str, Any] | None = None) -> None:
        """Import the parts of packages that a piece of code reaches through the package's name."""
        for reference in references(code):
            value = (self.namespace if namespace is None else namespace).get(reference.name)
            for attribute in reference.path:
                if not isinstance(value, types.ModuleType):
                    break
                path = f"{module_dict(value)['__name__']}.{attribute}"
                value = sys.modules.get(path)
                if value is not None:
                    self.imports.add(f"import {path}")

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

    def refer(self, value: Any) -> str:
        """Write a function or class by the name that it has in the notebook or in its module.

        Raises
        ------
        Unsayable
            If it cannot be written.
        """
        own = getattr(value, "__name__", "")
        home = getattr(value, "__globals__", None)
        at_hand = self.namespace.items()
        written = [name for name, item in self._taken.items() if item is value and name not in self.problems]
        if written:
            return written[0]
        names = [name for name, item in at_hand if item is value and name.isidentifier() and name not in self._taken]
        for name in sorted(names, key=lambda name: (name != own, name)):
            self.write(name)
            if name not in self.problems:
                return name
        if getattr(builtins, own, None) is value:
            return str(own)
        if (found := _importable(value)) is not None:
            module, path = found
            if path == own and self._is_free(own):
                self._taken[own] = value
                self.imports.add(f"from {module} import {own}")
                return str(own)
            self.imports.add(f"import {module}")
            return ".".join(found)
        if home is not None and home is not self.namespace and home.get(own) is value and own not in self._taken:
            self.write(own, home)
            if own not in self.problems:
                return str(own)
        if isinstance(value, types.FunctionType):
            name = self._fresh(own if own.isidentifier() else "function")
            self._taken[name] = value
            self._inner(name, value)
            return name
        raise Unsayable(describe(value))

    def _write(self, name: str, value: Any, namespace: Mapping[str, Any]) -> None:
        if isinstance(value, types.ModuleType):
            path = module_dict(value)["__name__"]
            if path == "__main__":
                raise Unsayable("the notebook's own namespace")
            self.imports.add(f"import {path}" if path == name else f"import {path} as {name}")
        elif (home := _importable(value)) is not None:
            module, path = home
            if "." in path:
                self.imports.add(f"import {module}")
                self.texts.append(f"{name} = {module}.{path}")
            else:
                self.imports.add(f"from {module} import {path}" + (f" as {name}" if path != name else ""))
        elif isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
            self._definition(name, value, namespace)
        else:
            text = self.say(value)
            if len(text) > _LONGEST:
                raise Unsayable(f"{describe(value)} that takes {len(text):,} characters")
            self.texts.append(f"{name} = {text}")

    def _definition(self, name: str, value: Any, namespace: Mapping[str, Any]) -> None:
        original = getattr(value, "__name__", name)
        if original not in (name, "<lambda>") and namespace.get(original) is value:
            self.write(original, namespace)
            self.texts.append(f"{name} = {original}")
            return
        statement = statement_of(name, value)
        if statement is None:
            self._inner(name, value)
            return
        namespace = getattr(inspect.unwrap(value), "__globals__", namespace)
        self._take(compiled(ast.Module([statement.tree], []), namespace), statement.text, namespace)

    def _inner(self, name: str, value: Any) -> None:
        """Write a function that was made within another, with the values that it holds, or one without a name."""
        definition = inner_of(value) if isinstance(value, types.FunctionType) else None
        home = getattr(value, "__globals__", {})
        maker = getattr(value, "__qualname__", name).partition(".")[0]
        made = f"a function that {maker!r} made" if getattr(value, "__closure__", None) else describe(value)
        if definition is None or place_of(str(home.get("__name__", "__main__"))) != "user":
            raise Unsayable(f"{made}, whose source is not known" if definition is None else made)
        if id(value) in self._open:
            raise Unsayable("functions that hold each other")
        self._open.add(id(value))
        try:
            self._write_inner(name, value, definition, made)
        finally:
            self._open.discard(id(value))

    def _write_inner(
        self, name: str, value: types.FunctionType, definition: ast.FunctionDef | ast.Lambda, made: str
    ) -> None:
        def said(item: object, what: str) -> str:
            try:
                return self.say(item)
            except Unsayable as error:
                raise Unsayable(f"{made}, {what} is {error}") from None

        held = {}
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                raise Unsayable(f"{made}, whose {variable!r} is not set yet") from None
            if content is not value or variable != value.__name__:
                held[variable] = said(content, f"whose {variable!r}")
        _say_defaults(definition, value, lambda item: said(item, "a default of which"))
        attributes = {key: item for key, item in vars(value).items() if key != "__doc__"}
        factory = self._fresh(f"make_{name}")
        self._taken[factory] = None
        tree = within(definition, factory, tuple(held))
        given = ", ".join(f"{variable}={text}" for variable, text in held.items())
        lines = [ast.unparse(tree), f"{name} = {factory}({given})"]
        if value.__name__ != value.__code__.co_name:
            lines.append(f"{name}.__name__ = {value.__name__!r}")  # as functools.wraps does
        lines += [f"{name}.{key} = {said(item, f'whose attribute {key!r}')}" for key, item in attributes.items()]
        self._take(compile(tree, "<cell>", "exec", dont_inherit=True), "\n".join(lines), value.__globals__)

    def _take(self, code: types.CodeType, text: str, namespace: Mapping[str, Any]) -> None:
        """Put a definition after what it needs at once, and before what it needs when it is called."""
        needs = needs_of(code)
        for needed in needs.at_once:
            self.write(needed, namespace)
        self.submodules(code, namespace)
        self.texts.append(text)
        for needed in needs.later:
            if needed not in self.bound:
                self.write(needed, namespace)

    def _fresh(self, base: str) -> str:
        """Return a name that stands for nothing yet."""
        names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
        return next(name for name in names if self._is_free(name))

    def _is_free(self, name: str) -> bool:
        known = name in self._taken or name in self.namespace or name in self.bound or hasattr(builtins, name)
        return name.isidentifier() and not known and not keyword.iskeyword(name)

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


def _together(imports: Iterable[str]) -> list[str]:
    """Import what comes from one module in one line."""
    of: dict[str, list[str]] = {}
    for line in sorted(imports):
        module, _, names = line.partition(" import ")
        of.setdefault(module if names else line, []).append(names)
    return [f"{module} import {', '.join(names)}" if names[0] else module for module, names in of.items()]


def _located(say: Callable[[Any], str], item: object, where: str) -> str:
    try:
        return say(item)
    except Unsayable as error:
        raise error.within(where) from None


def _say_defaults(
    definition: ast.FunctionDef | ast.Lambda, function: types.FunctionType, say: Callable[[object], str]
) -> None:
    """Put the values of defaults where their expressions stood, and leave out what has had its effect already."""

    def written(item: object) -> ast.expr:
        return ast.parse(say(item), mode="eval").body

    arguments = definition.args
    arguments.defaults = [written(item) for item in function.__defaults__ or ()]
    by_keyword = function.__kwdefaults__ or {}
    arguments.kw_defaults = [
        written(by_keyword[argument.arg]) if argument.arg in by_keyword else None for argument in arguments.kwonlyargs
    ]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if isinstance(definition, ast.FunctionDef):
        definition.decorator_list = []
        definition.returns = None


def _importable(value: Any) -> tuple[str, str] | None:
    """Find the module, the nearest to its package's face, and the path by which a value can be imported."""
    home: object = getattr(value, "__module__", None)
    path: object = getattr(value, "__qualname__", None)
    bound = isinstance(value, types.BuiltinFunctionType | types.MethodType)
    if isinstance(value, np.ufunc):
        home, path = "numpy" if hasattr(np, value.__name__) else "scipy.special", value.__name__
    elif bound and value.__self__ is not None and not isinstance(value.__self__, types.ModuleType):
        home, path = type(value.__self__).__module__, value.__name__
    elif bound and home is None:
        home = holder_of(value)
    if not isinstance(home, str) or not isinstance(path, str) or home == "__main__" or "<" in path:
        return None
    top = home.partition(".")[0]
    holders = [
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == top and _holds(module, path, value, bound)
    ]
    if not holders:
        return None
    return min(holders, key=lambda name: ("._" in name, name.count("."), name)), path


def _holds(module: types.ModuleType, path: str, value: object, bound: bool) -> bool:
    first, *rest = path.split(".")
    namespace = module_dict(module)
    # A lazy package lists what it would load.
    lazy = first not in namespace and first in namespace.get("__all__", ())
    found: object = getattr(module, first, None) if lazy else namespace.get(first)
    for part in rest:
        found = getattr(found, part, None)
    return found is value or (bound and found == value)


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
