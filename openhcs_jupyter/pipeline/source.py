"""Source capture: one text that makes a cell's steps again, with all that the cell takes from earlier cells."""

from __future__ import annotations
import __future__

import ast
import builtins
import dataclasses
import dis
import enum
import functools
import inspect
import linecache
import math
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline._bytecode import read
from openhcs_jupyter.pipeline._packages import holder_of, module_dict
from openhcs_jupyter.pipeline.step import Step

_LONGEST = 20_000
"""Characters of a constant; more is data and belongs in a file."""
_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


class SourceError(OpenHCSError):
    """A cell takes something from an earlier cell that cannot be written as source.

    Parameters
    ----------
    names
        What cannot be written, by its name: what it is.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        lines = "".join(f"\n  {name}: {what}" for name, what in names.items())
        super().__init__(
            f"The cell takes from earlier cells what cannot be written as source:{lines}",
            "Make it within the cell, load it inside the function that uses it (a file's path can be a parameter), "
            "or put it into a module that can be imported.",
        )
        self.names = dict(names)


def capture(source: str, namespace: Mapping[str, Any]) -> str:
    """Write one Python text that does what a cell did, without the cells before it.

    The text holds the imports, functions, classes and small constants to which the cell refers, then the cell as it is.
    Modules are imported, those of the user too.

    Parameters
    ----------
    source
        The cell.
    namespace
        In which the cell has run; its functions and classes must be known to `linecache`, as those of IPython are.

    Returns
    -------
    str
        Run in an empty namespace it makes steps with the same fingerprints.

    Raises
    ------
    SourceError
        If the cell, or a function that it uses, refers to something that cannot be written; lists all of it.
    SyntaxError
        If the cell is not Python.
    """
    tree = ast.parse(source)
    code = _compiled(tree, namespace)
    needs = _needs(code)
    writer = _Writer(namespace, needs.bound)
    for name in sorted(_read_before_set(tree, needs, namespace)):
        writer.problems[name] = "used before the cell sets it anew, so that its earlier value is gone"
    for name in (*needs.at_once, *needs.later):
        if name not in needs.bound:
            writer.write(name)
    writer.submodules(code)
    if writer.problems:
        raise SourceError(dict(sorted(writer.problems.items())))
    futures, rest = _without_futures(source, tree)
    if _annotations_stay_unread(namespace):
        futures.add("from __future__ import annotations")
    return "\n".join(
        [
            *sorted(futures),
            *sorted(writer.imports),
            *(f"\n{text}" if "\n" in text else text for text in writer.texts),
            f"\n{rest}" if writer.texts or writer.imports or futures else rest,
        ]
    )


class _Needs(NamedTuple):
    """Names that a piece of code takes from, and puts into, the namespace in which it runs."""

    at_once: dict[str, None]
    """Taken when the code itself runs."""
    later: dict[str, None]
    """Taken when a function that it defines is called."""
    bound: frozenset[str]


def _needs(code: types.CodeType) -> _Needs:
    at_once: dict[str, None] = {}
    later: dict[str, None] = {}
    bound: set[str] = set()

    def look(code: types.CodeType, wanted: dict[str, None], own: set[str]) -> None:
        for step in dis.get_instructions(code):
            if step.opname in {"LOAD_NAME", "LOAD_GLOBAL"}:
                if step.argval not in own and step.argval not in (bound if wanted is at_once else ()):
                    wanted[step.argval] = None
            elif step.opname == "STORE_NAME":
                own.add(step.argval)
            elif isinstance(step.argval, types.CodeType):
                inner = step.argval
                runs_now = inner.co_name in _COMPREHENSIONS or not inner.co_flags & inspect.CO_OPTIMIZED
                look(inner, wanted if runs_now else later, set())

    look(code, at_once, bound)
    return _Needs(at_once, later, frozenset(bound))


def _compiled(tree: ast.Module, namespace: Mapping[str, Any]) -> types.CodeType:
    flags = __future__.annotations.compiler_flag if _annotations_stay_unread(namespace) else 0
    code: types.CodeType = compile(tree, "<cell>", "exec", flags=flags, dont_inherit=True)
    return code


def _annotations_stay_unread(namespace: Mapping[str, Any]) -> bool:
    """Tell whether a cell has imported ``annotations`` from ``__future__``, which holds for all cells after it."""
    return namespace.get("annotations") is __future__.annotations


def _read_before_set(tree: ast.Module, needs: _Needs, namespace: Mapping[str, Any]) -> set[str]:
    """Find names that a cell takes from earlier cells and then sets anew; what a loop carries over is its own."""
    doubtful = needs.at_once.keys() & needs.bound & namespace.keys()
    found: set[str] = set()
    bound: set[str] = set()
    for statement in tree.body if doubtful else ():
        own = _needs(_compiled(ast.Module([statement], []), namespace))
        carried = own.bound if isinstance(statement, ast.For | ast.While) else frozenset()
        found |= (own.at_once.keys() & doubtful) - bound - carried
        bound |= own.bound
    return found


class _Writer:
    """Gathers the text of every name that is needed, each after those that it needs itself."""

    def __init__(self, namespace: Mapping[str, Any], bound: frozenset[str]) -> None:
        self.namespace = namespace
        self.bound = bound
        """Names that the cell sets itself."""
        self.imports: set[str] = set()
        self.texts: list[str] = []
        self.problems: dict[str, str] = {}
        self._seen: set[str] = set()

    def write(self, name: str) -> None:
        """Write what a name stands for, once."""
        if name in self._seen or name not in self.namespace or (name.startswith("__") and name.endswith("__")):
            return
        self._seen.add(name)
        value = self.namespace[name]
        if getattr(builtins, name, self) is value:
            return
        try:
            self._write(name, value)
        except _Unsayable as error:
            self.problems[name] = str(error)

    def submodules(self, code: types.CodeType) -> None:
        """Import the parts of packages that a piece of code reaches through the package's name."""
        for reference in _references(code):
            value = self.namespace.get(reference.name)
            for attribute in reference.path:
                if not isinstance(value, types.ModuleType):
                    break
                path = f"{module_dict(value)['__name__']}.{attribute}"
                value = sys.modules.get(path)
                if value is not None:
                    self.imports.add(f"import {path}")

    def _write(self, name: str, value: Any) -> None:
        if isinstance(value, types.ModuleType):
            path = module_dict(value)["__name__"]
            if path == "__main__":
                raise _Unsayable("the notebook's own namespace")
            self.imports.add(f"import {path}" if path == name else f"import {path} as {name}")
        elif (home := _importable(value)) is not None:
            module, path = home
            if "." in path:
                self.imports.add(f"import {module}")
                self.texts.append(f"{name} = {module}.{path}")
            else:
                self.imports.add(f"from {module} import {path}" + (f" as {name}" if path != name else ""))
        elif isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
            self._definition(name, value)
        else:
            text = self._say(value)
            if len(text) > _LONGEST:
                raise _Unsayable(f"{_describe(value)} that takes {len(text):,} characters")
            self.texts.append(f"{name} = {text}")

    def _definition(self, name: str, value: Any) -> None:
        original = getattr(value, "__name__", name)
        if original not in (name, "<lambda>") and self.namespace.get(original) is value:
            self.write(original)
            self.texts.append(f"{name} = {original}")
            return
        statement, lines = _statement(name, value)
        code = _compiled(ast.Module([statement], []), self.namespace)
        needs = _needs(code)
        for needed in needs.at_once:
            self.write(needed)
        self.submodules(code)
        self.texts.append(lines)
        for needed in needs.later:
            if needed not in self.bound:
                self.write(needed)

    def _say(self, value: Any, depth: int = 0) -> str:
        """Write a value as an expression."""
        kind = type(value)
        if depth > 50:
            raise _Unsayable("a container that is nested too deeply, or holds itself")

        def say(item: object) -> str:
            return self._say(item, depth + 1)

        if value is None or value is ... or kind in {bool, int, str, bytes, range, slice}:
            return repr(value)
        if kind is float:
            return repr(value) if math.isfinite(value) else f"float({str(value)!r})"
        if kind is complex:
            return f"complex({say(value.real)}, {say(value.imag)})"
        if kind is list:
            return f"[{', '.join(map(say, value))}]"
        if kind is tuple:
            return f"({''.join(f'{say(item)}, ' for item in value)})"
        if kind in {set, frozenset}:
            inside = f"{{{', '.join(sorted(map(say, value)))}}}" if value else ""
            return f"{kind.__name__}({inside})"
        if kind is dict:
            return f"{{{', '.join(f'{say(key)}: {say(item)}' for key, item in value.items())}}}"
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
            return f"{self._refer(kind)}[{value.name!r}]"
        if isinstance(value, functools.partial):
            self.imports.add("import functools")
            given = [*map(say, value.args), *(f"**{say(value.keywords)}" for _ in range(bool(value.keywords)))]
            return f"functools.partial({', '.join([say(value.func), *given])})"
        if isinstance(value, Step):
            return self._say_step(value, depth)
        if isinstance(value, msgspec.Struct):
            return self._say_fields(value, value.__struct_fields__, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self._say_fields(value, [field.name for field in dataclasses.fields(value) if field.init], depth)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return self._say_fields(value, value._fields, depth)
        if isinstance(value, type) or callable(value):
            return self._refer(value)
        raise _Unsayable(_describe(value))

    def _say_fields(self, value: Any, fields: Iterable[str], depth: int) -> str:
        said = (f"{name}={self._say(getattr(value, name), depth + 1)}" for name in fields)
        return f"{self._refer(type(value))}({', '.join(said)})"

    def _say_step(self, step: Step, depth: int) -> str:
        options = ("stack", "channel", "inputs", "outputs", "save", "name")
        said = [self._say(step.function, depth + 1), self._say(step.params, depth + 1)]
        said += [f"{name}={self._say(getattr(step, name), depth + 1)}" for name in options]
        return f"{self._refer(Step)}({', '.join(said)})"

    def _refer(self, value: Any) -> str:
        """Write a function or class by the name that it has in the notebook or in its module."""
        names = [name for name, item in self.namespace.items() if item is value and name.isidentifier()]
        own = getattr(value, "__name__", "")
        for name in sorted(names, key=lambda name: (name != own, name)):
            self.write(name)
            if name not in self.problems:
                return name
        if getattr(builtins, own, None) is value:
            return str(own)
        if (home := _importable(value)) is not None:
            self.imports.add(f"import {home[0]}")
            return ".".join(home)
        raise _Unsayable(_describe(value))


class _Unsayable(Exception):  # noqa: N818
    """Says what it is that has no source."""


def _references(code: types.CodeType) -> Iterator[Any]:
    yield from (reference for reference in read(code).references if reference.level < 0)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _references(constant)


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


def _statement(name: str, value: Any) -> tuple[ast.stmt, str]:
    """Find the statement of a cell that made a function or class, and its text."""
    for filename, line in _places(value):
        lines = linecache.getlines(filename)
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            continue
        for statement in reversed(tree.body):
            if line is not None and not _first_line(statement) <= line <= (statement.end_lineno or 0):
                continue
            if name in _binds(statement) and (line is not None or isinstance(statement, ast.ClassDef)):
                return statement, "".join(lines[_first_line(statement) - 1 : statement.end_lineno]).rstrip("\n")
    if isinstance(value, types.FunctionType) and value.__closure__:
        raise _Unsayable(f"a function that {value.__qualname__.partition('.')[0]!r} made, with values of its own")
    raise _Unsayable(f"{_describe(value)} whose source is not known")


def _places(value: Any) -> Iterator[tuple[str, int | None]]:
    """Iterate over the files, and lines, in which something may have been defined."""
    if not isinstance(value, type):
        code = getattr(inspect.unwrap(value), "__code__", None)
        if code is not None:
            yield code.co_filename, code.co_firstlineno
        return
    for item in vars(value).values():
        function = inspect.unwrap(getattr(item, "__func__", item)) if callable(item) else getattr(item, "fget", None)
        code = getattr(function, "__code__", None)
        if code is not None and code.co_qualname.startswith(f"{value.__qualname__}."):
            yield code.co_filename, code.co_firstlineno
    # A class without methods does not know its cell: the latest one that defines its name.
    for filename in reversed(list(linecache.cache)):
        if f"class {value.__name__}" in "".join(linecache.getlines(filename)):
            yield filename, None


def _first_line(statement: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(one.lineno for one in decorators)])


def _binds(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


def _without_futures(source: str, tree: ast.Module) -> tuple[set[str], str]:
    """Take the imports from ``__future__`` out of a cell: they must stand first."""
    lines = source.splitlines(keepends=True)
    futures: set[str] = set()
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            futures |= {f"from __future__ import {alias.name}" for alias in statement.names}
            for line in range(statement.lineno - 1, statement.end_lineno or 0):
                lines[line] = "\n"
    return futures, "".join(lines)


def _describe(value: Any) -> str:
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
