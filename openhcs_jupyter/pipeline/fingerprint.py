"""Fingerprints: the identity of functions and parameters by what they do, not by where or how they are written."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import datetime as dt
import decimal
import dis
import enum
import fractions
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pathlib
import platform
import re
import struct
import sys
import sysconfig
import types
import typing
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline.contracts import ATTRIBUTE, Contract

_SIZE = 16
_OWN = __name__.partition(".")[0]
_FUNCTIONS = f"{_OWN}.functions"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_HINT = (
    "Hand over what it is made from as a parameter of the step (numbers, text, arrays, a file's path), "
    "or load it inside the function."
)

_Place = Literal["stdlib", "installed", "own", "user"]


class FingerprintError(OpenHCSError):
    """A function or a parameter holds something whose identity cannot be told, such as an open file or a lock.

    Parameters
    ----------
    function
        Name of the function at fault, or None where a value was handed over alone.
    variable
        What in it is at fault: ``global 'model'``, ``parameter 'weights'``.
    value
        The object.
    """

    def __init__(self, function: str | None, variable: str, value: object) -> None:
        kind = type(value)
        what = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__
        where = f"{variable} of function {function!r}" if function else variable
        super().__init__(
            f"{where[:1].upper()}{where[1:]} is an object of type {what}, "
            "of which it cannot be told whether it changed between two runs",
            _HINT,
        )
        self.function = function
        self.variable = variable


def fingerprint(function: object, params: Mapping[str, Any] | None = None) -> str:
    """Identify a function with its parameters by everything that its result depends on, inputs aside.

    That is its bytecode without line numbers and docstrings, its defaults, its closure, the globals that it refers to
    (functions and classes of the user followed to any depth), the version of each installed package that it names, and
    the minor version of Python. Comments, docstrings, the place of the code and the hash seed do not matter.

    Parameters
    ----------
    function
        A function, method, partial, class or callable object, or a reducer.
    params
        Its parameters; their order does not matter.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    FingerprintError
        If something that it refers to has no identity that can be told; names it.
    """
    walk = _Walk(_name(function))
    walk.tag("call", _PYTHON)
    with walk.at("the function"):
        walk.value(function)
    for name, value in sorted((params or {}).items()):
        walk.tag("param", name)
        with walk.at(f"parameter {name!r}"):
            walk.value(value)
    return walk.hexdigest()


def fingerprint_value(value: object) -> str:
    """Identify a value by its content and type: ``1``, ``1.0`` and ``True`` differ, equal sets do not.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    FingerprintError
        If the value, or something in it, has no identity that can be told.
    """
    walk = _Walk(None)
    walk.tag("value", _PYTHON)
    with walk.at("the value"):
        walk.value(value)
    return walk.hexdigest()


def combine(*parts: str | bytes | int) -> str:
    """Make one fingerprint of several parts; their order and their boundaries count.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    # The repr of such a tuple is unique: texts are quoted, and the types look different.
    return blake2b(repr(parts).encode(), digest_size=_SIZE).hexdigest()


def package_versions(functions: Iterable[object]) -> dict[str, str]:
    """Return the version of Python and of each distribution whose code takes part in these functions.

    Parameters
    ----------
    functions
        As `fingerprint` takes them.

    Raises
    ------
    FingerprintError
        As `fingerprint` does.
    """
    packages: set[str] = set()
    for function in functions:
        walk = _Walk(_name(function))
        with walk.at("the function"):
            walk.value(function)
        packages |= walk.packages
    found = {_distribution(package) for package in packages}
    return {"python": platform.python_version(), **{one.name: one.version for one in sorted(found)}}


class _Distribution(NamedTuple):
    name: str
    version: str


_UNLIKE = {"cv2": "opencv-python-headless", "PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
"""Distributions not named like their package; for all others the whole environment is read, which takes a third of a
second."""


@functools.cache
def _distribution(package: str) -> _Distribution:
    """Find the distribution that holds a top-level package, without importing the package."""
    try:
        return _Distribution(package, importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        pass
    if (name := _UNLIKE.get(package)) is not None:
        try:
            return _Distribution(name, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            pass
    if names := _packages().get(package):
        return _Distribution(names[0], importlib.metadata.version(names[0]))
    return _Distribution(package, str(getattr(sys.modules.get(package), "__version__", "unknown")))


@functools.cache
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


class _OwnModule(NamedTuple):
    digest: str
    packages: frozenset[str]


@functools.cache
def _own_module(name: str) -> _OwnModule:
    """Identify a module of this package: its file and those of the standard functions that it imports."""
    files: list[bytes] = []
    packages: set[str] = set()
    todo, seen = [name], {name}
    while todo:
        spec = importlib.util.find_spec(todo.pop(0))
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            continue
        text = pathlib.Path(spec.origin).read_bytes()
        files.append(text)
        for imported in _imports(ast.parse(text), spec.name if spec.submodule_search_locations else spec.parent or ""):
            top = imported.partition(".")[0]
            if top == _OWN:
                if imported.startswith(_FUNCTIONS) and imported not in seen:
                    seen.add(imported)
                    todo.append(imported)
            elif top not in sys.stdlib_module_names:
                packages.add(top)
    own = _distribution(_OWN)
    return _OwnModule(combine(own.version, *files), frozenset(packages))


def _imports(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = (
                importlib.util.resolve_name("." * node.level + (node.module or ""), package)
                if node.level
                else node.module
            )
            if base:
                yield base
                yield from (
                    f"{base}.{alias.name}"
                    for alias in node.names
                    if base.startswith(_OWN) and _is_module(base, alias.name)
                )
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            # How lazy_loader imports.
            yield from (one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str))


def _is_module(package: str, name: str) -> bool:
    spec = importlib.util.find_spec(package)
    return bool(spec and spec.submodule_search_locations and importlib.util.find_spec(f"{package}.{name}"))


_INSTALLED = tuple({sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib", "platstdlib")})


@functools.cache
def _place(module: str) -> _Place:
    """Tell whose code a module is; what is neither Python's nor installed is the user's."""
    top = module.partition(".")[0]
    if top == _OWN:
        return "own"
    if top == "__main__":
        return "user"
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return "stdlib"
    loaded = sys.modules.get(top)
    spec = _module_dict(loaded).get("__spec__") if loaded is not None else None
    origin = getattr(spec, "origin", None) or (_module_dict(loaded).get("__file__") if loaded is not None else None)
    folders = [origin] if origin else list(getattr(spec, "submodule_search_locations", None) or ())
    if any(
        "site-packages" in folder or "dist-packages" in folder or folder.startswith(_INSTALLED) for folder in folders
    ):
        return "installed"
    return "user"


def _module_dict(module: types.ModuleType) -> dict[str, Any]:
    # A lazy module loads itself when an attribute is asked for in the ordinary way.
    namespace: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return namespace


_SHIFT = {"LOAD_GLOBAL": 1}
if sys.version_info >= (3, 12):
    _SHIFT |= {"LOAD_ATTR": 1, "LOAD_SUPER_ATTR": 2}
_NAME_SHIFT = {op: _SHIFT.get(dis.opname[op], 0) for op in dis.hasname}
_CONST = frozenset(dis.hasconst)
_GLOBAL = frozenset(dis.opmap[name] for name in ("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTE = frozenset(dis.opmap[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in dis.opmap)
_IMPORT, _IMPORT_FROM = dis.opmap["IMPORT_NAME"], dis.opmap["IMPORT_FROM"]
_SMALL_INT = dis.opmap.get("LOAD_SMALL_INT")
_STORE_NAME = dis.opmap["STORE_NAME"]
_EXTENDED = dis.EXTENDED_ARG
_CACHE = dis.opmap.get("CACHE")
_FLAGS = 0x3EF
"""Of a code object's flags, those that say how it runs: not nesting, docstring, or futures."""
_NOT_CODE = frozenset({"__doc__", "__firstlineno__"})
_CONTAINERS: tuple[Callable[[Any], object], ...] = (dict, list, tuple, set, frozenset, str, bytes, int, float)
_MODULE_NAMES = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
)
_BUILTINS = vars(builtins)


class _Reference(NamedTuple):
    """What a piece of code takes from outside: a global, or an import, and the attributes asked of it."""

    name: str
    path: tuple[str, ...]
    level: int = -1
    """Of an import statement, its leading dots; -1: a global."""


class _Code(NamedTuple):
    instructions: bytes
    names: tuple[str, ...]
    constants: tuple[object, ...]
    references: tuple[_Reference, ...]


def _read(code: types.CodeType) -> _Code:
    """Bring bytecode into a form that does not depend on docstrings, lines and the numbering of constants."""
    stream: list[int] = []
    names: dict[str, int] = {}
    constants: dict[int, int] = {}
    references: dict[_Reference, None] = {}
    recent: list[object] = [None, None]
    base: _Reference | None = None
    imported: _Reference | None = None
    raw, all_names, all_constants = code.co_code, code.co_names, code.co_consts
    arg = 0
    skip_to = _class_documentation(code)
    for at in range(0, len(raw), 2):
        op = raw[at]
        arg = arg << 8 | raw[at + 1]
        if op == _EXTENDED:
            continue
        if op == _CACHE:
            arg = 0
            continue
        if at in skip_to:
            arg = 0
            continue
        chained = False
        if op in _CONST:
            stream += (op, constants.setdefault(arg, len(constants)))
            recent = [recent[1], all_constants[arg]]
        elif op in _NAME_SHIFT:
            shift = _NAME_SHIFT[op]
            name = all_names[arg >> shift]
            stream += (op, arg & ((1 << shift) - 1), names.setdefault(name, len(names)))
            if op in _ATTRIBUTE and base is not None:
                base = base._replace(path=(*base.path, name))
                chained = True
            else:
                if base is not None:
                    references[base] = None
                    base = None
                if op in _GLOBAL:
                    base = _Reference(name, ())
                    chained = True
                elif op == _IMPORT:
                    level = recent[0] if isinstance(recent[0], int) else 0
                    imported = _Reference(name, (), level)
                    if not recent[1]:
                        references[imported] = None
                elif op == _IMPORT_FROM and imported is not None:
                    references[imported._replace(path=(name,))] = None
        else:
            stream += (op, arg)
            if op == _SMALL_INT:
                recent = [recent[1], arg]
        if base is not None and not chained:
            references[base] = None
            base = None
        arg = 0
    if base is not None:
        references[base] = None
    return _Code(
        struct.pack(f"<{len(stream)}I", *stream),
        tuple(names),
        tuple(all_constants[index] for index in constants),
        tuple(references),
    )


def _class_documentation(code: types.CodeType) -> frozenset[int]:
    """Find the instructions of a class's body that set its docstring or its line."""
    if not _NOT_CODE.intersection(code.co_names) or code.co_flags & inspect.CO_OPTIMIZED:
        return frozenset()
    found: set[int] = set()
    before: tuple[int, int] = (0, 0)
    for at in range(0, len(code.co_code), 2):
        op, arg = code.co_code[at], code.co_code[at + 1]
        if op == _STORE_NAME and arg < len(code.co_names) and code.co_names[arg] in _NOT_CODE and before[1] in _CONST:
            found |= {before[0], at}
        before = (at, op)
    return frozenset(found)


class _Walk:
    """Feeds a value, and everything it refers to, into one hash in an order that depends on the value alone."""

    __slots__ = ("function", "hash", "numbers", "open", "packages", "path")

    def __init__(self, function: str | None, parent: _Walk | None = None) -> None:
        self.function = function
        self.hash = blake2b(digest_size=_SIZE)
        self.path: list[str] = list(parent.path) if parent else []
        self.packages: set[str] = parent.packages if parent else set()
        self.numbers: dict[int, tuple[int, object]] = dict(parent.numbers) if parent else {}
        """Functions, classes and modules that were met, in their order; kept alive so that ids stay theirs."""
        self.open: dict[int, int] = dict(parent.open) if parent else {}
        """Containers that are being walked, with their depth."""

    def hexdigest(self) -> str:
        return self.hash.hexdigest()

    def at(self, where: str) -> _Where:
        return _Where(self.path, where)

    def tag(self, *parts: str | bytes | int) -> None:
        self.hash.update(repr(parts).encode())

    def data(self, buffer: bytes | memoryview) -> None:
        self.tag(len(buffer) if isinstance(buffer, bytes) else buffer.nbytes)
        self.hash.update(buffer)

    def fail(self, value: object) -> FingerprintError:
        named = [step for step in self.path if not step.startswith((".", "["))]
        last = max((index for index, step in enumerate(self.path) if step in named[-1:]), default=0)
        return FingerprintError(self.function, "".join(self.path[last:]) or "the value", value)

    def value(self, value: object) -> None:
        """Take in any value."""
        if (simple := _SIMPLE.get(type(value))) is not None:
            self.tag(type(value).__name__, simple(value))
            return
        key = id(value)
        if (depth := self.open.get(key)) is not None:
            self.tag("cycle", len(self.open) - depth)
            return
        if (known := self.numbers.get(key)) is not None:
            self.tag("again", known[0])
            return
        if len(self.open) > 200:
            raise self.fail(value)
        self.open[key] = len(self.open)
        try:
            self._compound(value)
        finally:
            del self.open[key]

    def _compound(self, value: Any) -> None:
        kind = type(value)
        if (known := _KINDS.get(kind)) is not None:
            known(self, value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.ModuleType):
            self._module(value)
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, np.generic):
            self.tag("scalar", value.dtype.str, value.tobytes())
        elif isinstance(value, np.dtype):
            self.tag("dtype", repr(value))
        elif isinstance(value, enum.Enum):
            self._class(kind)
            self.tag("member", value.name)
        elif isinstance(value, pathlib.PurePath):
            self.tag("path", str(value))
        elif isinstance(value, logging.Logger):
            self.tag("logger", value.name)
        elif self._pandas(value) or self._ufunc(value):
            pass
        elif hasattr(value, "py_func") and kind.__module__.startswith("numba."):
            self.packages.add("numba")
            self.tag("numba", *_distribution("numba"))
            self.value(value.py_func)
            self.value(dict(sorted(value.targetoptions.items())))
        elif kind.__module__ == "typing" or isinstance(value, types.GenericAlias | types.UnionType):
            self.tag("annotation", repr(value))
        elif isinstance(value, msgspec.Struct):
            self._instance(value, value.__struct_fields__)
        elif dataclasses.is_dataclass(value):
            self._instance(value, tuple(field.name for field in dataclasses.fields(value)))
        elif _place(kind.__module__) == "user" and _state_is_visible(kind):
            self._object(value)
        elif not self._named_constant(value):
            raise self.fail(value)

    # Containers.

    def _items(self, value: Iterable[object]) -> None:
        items = list(value)
        self.tag(type(value).__name__, len(items))
        for index, item in enumerate(items):
            with self.at(f"[{index}]"):
                self.value(item)

    def _set(self, value: Iterable[object]) -> None:
        digests = sorted(self._apart(item) for item in value)
        self.tag(type(value).__name__, *digests)

    def _apart(self, item: object) -> bytes:
        walk = _Walk(self.function, self)
        walk.value(item)
        return walk.hash.digest()

    def _dict(self, value: Mapping[object, object]) -> None:
        # A function may go through a dict in its order, so the order counts.
        self.tag(type(value).__name__, len(value))
        for key, item in value.items():
            self.value(key)
            with self.at(f"[{key!r}]"):
                self.value(item)

    def _defaultdict(self, value: defaultdict[object, object]) -> None:
        self.value(value.default_factory)
        self._dict(value)

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        self.tag("array", type(value).__name__, repr(value.dtype), *value.shape)
        if isinstance(value, np.ma.MaskedArray):
            self._array(np.ma.getmaskarray(value))
            value = value.filled()
        plain = np.asarray(value)
        if plain.dtype.hasobject:
            with self.at("[...]"):
                self.value(plain.tolist())
        else:
            self.data(
                np.ascontiguousarray(plain).tobytes() if plain.dtype.names or not plain.size else _bytes_of(plain)
            )

    def _pandas(self, value: Any) -> bool:
        if not type(value).__module__.startswith("pandas."):
            return False
        import pandas as pd

        if value is pd.NaT or value is pd.NA:
            self.tag("missing", repr(value))
        elif isinstance(value, pd.Timestamp | pd.Timedelta):
            self.tag("time", type(value).__name__, value.isoformat(), value.unit, str(getattr(value, "tz", None)))
        elif isinstance(value, pd.DataFrame):
            self.tag("frame", *value.shape)
            for index, name in enumerate(value.columns):
                self.value(name)
                with self.at(f"[{name!r}]"):
                    self._column(value.iloc[:, index])
            self.value(tuple(value.columns.names))
            self._column(value.index)
        elif isinstance(value, pd.Series):
            self.tag("series")
            self.value(value.name)
            self._column(value)
            self._column(value.index)
        elif isinstance(value, pd.Index):
            self.tag("index")
            self._column(value)
        elif isinstance(value, pd.api.extensions.ExtensionDtype):
            self.tag("dtype", repr(value))
        else:
            return False
        return True

    def _column(self, value: Any) -> None:
        self.tag("column", str(value.dtype))
        if hasattr(value, "names"):
            self.value(tuple(value.names))
        if isinstance(value.dtype, np.dtype):
            self._array(value.to_numpy())
        else:
            self.value(list(value.astype(object)))
            if hasattr(value.dtype, "categories"):
                self.tag(str(value.dtype.ordered))
                self.value(list(value.dtype.categories))

    # Objects.

    def _instance(self, value: object, fields: Iterable[str]) -> None:
        self._type_of(value)
        for name in fields:
            self.tag(name)
            with self.at(f".{name}"):
                self.value(getattr(value, name, None))

    def _type_of(self, value: object) -> None:
        self.tag("instance")
        self.value(type(value))

    def _object(self, value: object) -> None:
        self._type_of(value)
        for base in _CONTAINERS:
            if isinstance(value, base):
                self.tag("content")
                self.value(base(value))
        state = dict(getattr(value, "__dict__", {}))
        for kind in type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                    state[name] = getattr(value, name)
        for name, item in sorted(state.items()):
            self.tag(name)
            with self.at(f".{name}"):
                self.value(item)

    def _named_constant(self, value: object) -> bool:
        """Take in what an installed module holds under a name of its own, such as ``dataclasses.MISSING``."""
        home = type(value).__module__
        if _place(home) == "user" or home not in sys.modules:
            return False
        for name, item in _module_dict(sys.modules[home]).items():
            if item is value:
                self._by_name(home, name)
                return True
        return False

    def _ufunc(self, value: object) -> bool:
        if isinstance(value, np.ufunc):
            for home in ("numpy", "scipy.special"):
                if home in sys.modules and getattr(sys.modules[home], value.__name__, None) is value:
                    self._by_name(home, value.__name__)
                    return True
        return False

    # Code.

    def _number(self, value: object) -> None:
        self.numbers[id(value)] = (len(self.numbers), value)

    def _by_name(self, module: str, name: str) -> None:
        place = _place(module)
        self.tag("named", module, name)
        top = module.partition(".")[0]
        if place == "own":
            own = _own_module(module)
            self.tag(own.digest)
            self.packages |= {_OWN, *own.packages}
            for package in sorted(own.packages):
                self.tag(*_distribution(package))
        elif place == "installed":
            self.packages.add(top)
            self.tag(*_distribution(top))

    def _module(self, module: types.ModuleType) -> None:
        name = _module_dict(module).get("__name__", "")
        if _place(name) != "user":
            self._by_name(name, "")
            return
        self._number(module)
        self.tag("module")
        for key, item in sorted(_module_dict(module).items()):
            if not key.startswith("__"):
                self.tag(key)
                with self.at(f"module {name!r}, its {key!r}"):
                    self.value(item)

    def _function(self, function: types.FunctionType) -> None:
        module = function.__module__ or ""
        if _place(module) != "user" and _found_at(module, function.__qualname__) is function:
            self._by_name(module, function.__qualname__)
            return
        self._number(function)
        before, self.function = self.function, self.function or function.__name__
        if len(self.path) > 1 and _place(module) == "user":
            self.function = function.__name__
        self.tag("function")
        names = inspect.signature(function, follow_wrapped=False).parameters if function.__defaults__ else {}
        with_defaults = list(names)[: function.__code__.co_argcount][-len(function.__defaults__ or ()) :]
        for name, value in zip(with_defaults, function.__defaults__ or (), strict=True):
            self.tag("default", name)
            with self.at(f"the default of parameter {name!r}"):
                self.value(value)
        for name, value in sorted((function.__kwdefaults__ or {}).items()):
            self.tag("default", name)
            with self.at(f"the default of parameter {name!r}"):
                self.value(value)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            self.tag("closure", name)
            with self.at(f"the enclosing function's variable {name!r}"):
                try:
                    content = cell.cell_contents
                except ValueError:
                    self.tag("unbound")
                else:
                    self.value(content)
        for name, value in sorted(vars(function).items()):
            if name == ATTRIBUTE and isinstance(value, Contract):
                self.tag("contract", str(value.kind), str(value.stack))
            elif not name.startswith("__"):
                self.tag("attribute", name)
                with self.at(f"attribute {name!r}"):
                    self.value(value)
        self._code(function.__code__, function.__globals__)
        self.function = before

    def _code(self, code: types.CodeType, namespace: Mapping[str, Any] | None) -> None:
        read = _read(code)
        self.tag(
            "code",
            read.instructions,
            *read.names,
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & _FLAGS,
            code.co_exceptiontable,
        )
        self.tag("variables", *code.co_varnames, "", *code.co_cellvars, "", *code.co_freevars)
        for constant in read.constants:
            if isinstance(constant, types.CodeType):
                self._code(constant, namespace)
            else:
                self.value(constant)
        if namespace is None:
            return
        home = str(namespace.get("__name__", "__main__"))
        if _place(home) != "user":
            self._by_name(home, "")
            return
        for reference in read.references:
            if reference.level >= 0:
                self._imported(reference, str(namespace.get("__package__") or ""))
            elif reference.name not in _MODULE_NAMES:
                self._global(reference, namespace)

    def _global(self, reference: _Reference, namespace: Mapping[str, Any]) -> None:
        name = reference.name
        if name in namespace:
            self.tag("global", name)
            with self.at(f"global {name!r}"):
                self._attribute(namespace[name], reference.path)
        elif name not in _BUILTINS:
            self.tag("unbound", name)

    def _imported(self, reference: _Reference, package: str) -> None:
        name = reference.name
        self.tag("import", name, reference.level, *reference.path)
        if reference.level:
            name = importlib.util.resolve_name("." * reference.level + name, package)
        if _place(name.partition(".")[0]) != "user" or not _is_users(name):
            self._by_name(name, "")
            return
        try:
            module = importlib.import_module(name)
        except ImportError:
            # The function will say so when it is called, or handles it.
            self.tag("missing")
            return
        with self.at(f"module {name!r}"):
            self._attribute(module, reference.path)

    def _attribute(self, value: object, path: tuple[str, ...]) -> None:
        """Take in a value, or, of a user's module, only the attribute that is asked of it."""
        for index, name in enumerate(path):
            if not isinstance(value, types.ModuleType):
                break
            module = _module_dict(value)
            if _place(module.get("__name__", "")) != "user":
                break
            self.tag("of", name)
            if name not in module:
                self.tag("unbound")
                return
            self.path[-1] = f"{self.path[-1]}, its {name!r}" if index == 0 else f"{self.path[-1]}.{name}"
            value = module[name]
        self.value(value)

    def _builtin(self, value: types.BuiltinFunctionType) -> None:
        owner = value.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            self._by_name(value.__module__ or "builtins", value.__qualname__)
        elif _found_at(home := type(owner).__module__, value.__name__) == value:
            # Such as numpy.random.normal, which belongs to a hidden generator.
            self._by_name(home, value.__name__)
        else:
            self.tag("method", value.__name__)
            self.value(owner)

    def _method(self, value: types.MethodType) -> None:
        self.tag("method")
        self.value(value.__self__)
        self.value(value.__func__)

    def _partial(self, value: functools.partial[Any]) -> None:
        self.tag("partial")
        self.value(value.func)
        self.value(value.args)
        self.value(value.keywords)

    def _wrapped(self, value: Any) -> None:
        self.tag("wrapped", type(value).__name__)
        self.value(getattr(value, "__wrapped__", None) or value.__func__)

    def _property(self, value: property) -> None:
        self.tag("property")
        for part in (value.fget, value.fset, value.fdel):
            self.value(part)

    def _cached_property(self, value: functools.cached_property[Any]) -> None:
        self.tag("cached")
        self.value(value.func)

    def _descriptor(self, value: Any) -> None:
        self.tag("descriptor", value.__name__)

    def _class(self, kind: type) -> None:
        if (known := self.numbers.get(id(kind))) is not None:
            self.tag("again", known[0])
            return
        if _place(kind.__module__) != "user":
            self._by_name(kind.__module__, kind.__qualname__)
            return
        self._number(kind)
        self.tag("class", kind.__name__)
        for base in kind.__bases__:
            self.value(base)
        if type(kind) is not type:
            self.value(type(kind))
        skip = _CLASS_NAMES
        if dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                self.tag("field", field.name, str(field.init), str(field.compare), str(field.kw_only))
                with self.at(f"class {kind.__name__!r}, its field {field.name!r}"):
                    self.value(field.default)
                    self.value(field.default_factory)
        if issubclass(kind, msgspec.Struct):
            self.tag("struct", *kind.__struct_fields__)
            self.value(tuple(_plain_default(value) for value in kind.__struct_defaults__))
            skip = skip | set(kind.__struct_fields__)
        if issubclass(kind, enum.Enum):
            skip = skip | set(kind.__members__)
            for name, member in kind.__members__.items():
                self.tag("member", name)
                with self.at(f"class {kind.__name__!r}, its {name!r}"):
                    self.value(member.value)
        for name, item in sorted(vars(kind).items()):
            if name in skip or _is_generated(item):
                continue
            self.tag(name)
            with self.at(f"class {kind.__name__!r}, its {name!r}"):
                self.value(item)


class _Where:
    """Remembers for an error message where a walk is."""

    __slots__ = ("path", "step")

    def __init__(self, path: list[str], step: str) -> None:
        self.path = path
        self.step = step

    def __enter__(self) -> None:
        self.path.append(self.step)

    def __exit__(self, *_: object) -> None:
        # Kept while an error travels: it was made with its path.
        self.path.pop()


_CLASS_NAMES = frozenset(
    {
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__firstlineno__",
        "__static_attributes__",
        "__qualname__",
        "__parameters__",
        "__orig_bases__",
        "__abstractmethods__",
        "_abc_impl",
        "__match_args__",
        "__dataclass_fields__",
        "__dataclass_params__",
        "__struct_fields__",
        "__struct_defaults__",
        "__struct_config__",
        "__struct_encode_fields__",
        "__post_init_post_parse__",
        "_member_names_",
        "_member_map_",
        "_value2member_map_",
        "_member_type_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_hashable_values_",
        "_generate_next_value_",
        "_new_member_",
        "_use_args_",
        "_value_repr_",
        "_is_protocol",
        "__protocol_attrs__",
        "__non_callable_proto_members__",
        "__openhcs__",
    }
)


def _is_generated(item: object) -> bool:
    """Tell methods that dataclasses, named tuples and enums write themselves: the fields have said it all."""
    function = inspect.unwrap(getattr(item, "__func__", item)) if callable(item) else item
    return isinstance(function, types.FunctionType) and function.__code__.co_filename.startswith(
        ("<string>", "<namedtuple")
    )


def _plain_default(value: object) -> object:
    factory = getattr(value, "factory", None)
    return ("factory", factory) if factory is not None else repr(value) if value is msgspec.NODEFAULT else value


def _state_is_visible(kind: type) -> bool:
    """Tell whether an object's attributes are all of its state: no base is written in C, plain containers aside."""
    return all(base.__flags__ & 1 << 9 or base in {object, *_CONTAINERS} for base in kind.__mro__)


def _found_at(module: str, name: str) -> object:
    value: object = sys.modules.get(module)
    for part in name.split("."):
        value = inspect.getattr_static(value, part, None) if isinstance(value, type) else getattr(value, part, None)
    return value


def _is_users(module: str) -> bool:
    if module in sys.modules:
        return _place(module) == "user"
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return False
    origin = spec.origin if spec else None
    return bool(origin) and "site-packages" not in str(origin) and "dist-packages" not in str(origin)


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _name(function: object) -> str:
    return str(
        getattr(function, "__name__", None)
        or getattr(getattr(function, "func", None), "__name__", None)
        or type(function).__name__
    )


_SIMPLE: dict[type, Callable[[Any], str | bytes | int]] = {
    type(None): str,
    type(...): str,
    type(NotImplemented): str,
    bool: str,
    int: int,
    str: str,
    bytes: bytes,
    bytearray: bytes,
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    range: repr,
    slice: repr,
    dt.date: repr,
    dt.datetime: repr,
    dt.time: repr,
    dt.timedelta: repr,
    dt.timezone: repr,
    decimal.Decimal: repr,
    fractions.Fraction: repr,
    uuid.UUID: str,
    re.Pattern: lambda value: repr((value.pattern, value.flags)),
    struct.Struct: lambda value: value.format,
    types.MethodWrapperType: lambda value: value.__qualname__,
    typing.TypeVar: repr,
}

_KINDS: dict[type, Callable[[_Walk, Any], None]] = {
    list: _Walk._items,
    tuple: _Walk._items,
    deque: _Walk._items,
    set: _Walk._set,
    frozenset: _Walk._set,
    dict: _Walk._dict,
    OrderedDict: _Walk._dict,
    types.MappingProxyType: _Walk._dict,
    defaultdict: _Walk._defaultdict,
    types.FunctionType: _Walk._function,
    types.BuiltinFunctionType: _Walk._builtin,
    types.MethodType: _Walk._method,
    functools.partial: _Walk._partial,
    functools._lru_cache_wrapper: _Walk._wrapped,
    staticmethod: _Walk._wrapped,
    classmethod: _Walk._wrapped,
    property: _Walk._property,
    functools.cached_property: _Walk._cached_property,
    types.MemberDescriptorType: _Walk._descriptor,
    types.GetSetDescriptorType: _Walk._descriptor,
    types.WrapperDescriptorType: _Walk._descriptor,
    types.MethodDescriptorType: _Walk._descriptor,
    types.ClassMethodDescriptorType: _Walk._descriptor,
    types.CodeType: lambda walk, code: walk._code(code, None),
}
