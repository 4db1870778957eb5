"""The walk of a fingerprint: through a value, or a function and all that it refers to, into one hash."""

from __future__ import annotations

import builtins
import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import logging
import pathlib
import re
import struct
import sys
import types
import typing
import uuid
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline._bytecode import Reference, read
from openhcs_jupyter.pipeline._packages import OWN, distribution, holder_of, module_dict, own_module, place_of
from openhcs_jupyter.pipeline.contracts import ATTRIBUTE, Contract

SIZE = 16
_HINT = (
    "Hand over what it is made from as a parameter of the step (numbers, text, arrays, a file's path), "
    "or load it inside the function."
)


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


_FLAGS = 0x3EF
"""Of a code object's flags, those that say how it runs: not nesting, docstring, or futures."""
_CONTAINERS: tuple[type[Any], ...] = (dict, list, tuple, set, frozenset, str, bytes, int, float)
_MODULE_NAMES = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
)
_BUILTINS = vars(builtins)


class Walk:
    """Feeds a value, and everything it refers to, into one hash in an order that depends on the value alone."""

    __slots__ = ("function", "hash", "numbers", "open", "packages", "path")

    def __init__(self, function: str | None, parent: Walk | None = None) -> None:
        self.function = function
        self.hash = blake2b(digest_size=SIZE)
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
        elif self._pandas(value) or self._named_callable(value):
            pass
        elif hasattr(value, "py_func") and kind.__module__.startswith("numba."):
            self.packages.add("numba")
            self.tag("numba", *distribution("numba"))
            self.value(value.py_func)
            self.value(dict(sorted(value.targetoptions.items())))
        elif kind.__module__ == "typing" or isinstance(value, types.GenericAlias | types.UnionType):
            self.tag("annotation", repr(value))
        elif isinstance(value, msgspec.Struct):
            self._instance(value, value.__struct_fields__)
        elif dataclasses.is_dataclass(value):
            self._instance(value, tuple(field.name for field in dataclasses.fields(value)))
        elif place_of(kind.__module__) == "user" and _state_is_visible(kind):
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
        walk = Walk(self.function, self)
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
        if type(value).__module__.partition(".")[0] != "pandas":
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
        if place_of(home) == "user" or home not in sys.modules:
            return False
        for name, item in module_dict(sys.modules[home]).items():
            if item is value:
                self._by_name(home, name)
                return True
        return False

    def _named_callable(self, value: Any) -> bool:
        """Take in what an installed module offers under its name: functions written in C or Cython, ufuncs."""
        homes: tuple[object, ...] = (getattr(value, "__module__", None),)
        name = getattr(value, "__qualname__", None)
        if isinstance(value, np.ufunc):
            homes, name = ("numpy", "scipy.special"), value.__name__
        for home in homes:
            if not isinstance(home, str) or not isinstance(name, str) or place_of(home) == "user":
                continue
            if _found_at(home, name) is value:
                self._by_name(home, name)
                return True
        return False

    # Code.

    def _number(self, value: object) -> None:
        self.numbers[id(value)] = (len(self.numbers), value)

    def _by_name(self, module: str, name: str) -> None:
        place = place_of(module)
        self.tag("named", module, name)
        top = module.partition(".")[0]
        if place == "own":
            own = own_module(module)
            self.tag(own.digest)
            self.packages |= {OWN, *own.packages}
            for package in sorted(own.packages):
                self.tag(*distribution(package))
        elif place == "installed":
            self.packages.add(top)
            self.tag(*distribution(top))

    def _module(self, module: types.ModuleType) -> None:
        name = module_dict(module).get("__name__", "")
        if place_of(name) != "user":
            self._by_name(name, "")
            return
        self._number(module)
        self.tag("module")
        for key, item in sorted(module_dict(module).items()):
            if not key.startswith("__"):
                self.tag(key)
                with self.at(f"module {name!r}, its {key!r}"):
                    self.value(item)

    def _function(self, function: types.FunctionType) -> None:
        module = function.__module__ or ""
        if place_of(module) != "user" and _found_at(module, function.__qualname__) is function:
            self._by_name(module, function.__qualname__)
            return
        self._number(function)
        before, self.function = self.function, self.function or function.__name__
        if len(self.path) > 1 and place_of(module) == "user":
            self.function = function.__name__
        self.tag("function")
        defaults = function.__defaults__ or ()
        positional = function.__code__.co_varnames[: function.__code__.co_argcount]
        with_defaults = positional[len(positional) - len(defaults) :]
        for name, value in zip(with_defaults, defaults, strict=True):
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
        form = read(code)
        self.tag(
            "code",
            form.instructions,
            *form.names,
            code.co_argcount,
            code.co_posonlyargcount,
            code.co_kwonlyargcount,
            code.co_flags & _FLAGS,
        )
        self.tag("variables", *code.co_varnames, "", *code.co_cellvars, "", *code.co_freevars)
        for constant in form.constants:
            if isinstance(constant, types.CodeType):
                self._code(constant, namespace)
            else:
                self.value(constant)
        if namespace is None:
            return
        home = str(namespace.get("__name__", "__main__"))
        if place_of(home) != "user":
            self._by_name(home, "")
            return
        for reference in form.references:
            if reference.level >= 0:
                self._imported(reference, str(namespace.get("__package__") or ""))
            elif reference.name not in _MODULE_NAMES:
                self._global(reference, namespace)

    def _global(self, reference: Reference, namespace: Mapping[str, Any]) -> None:
        name = reference.name
        if name in namespace:
            self.tag("global", name)
            with self.at(f"global {name!r}"):
                self._attribute(namespace[name], reference.path)
        elif name not in _BUILTINS:
            self.tag("unbound", name)

    def _imported(self, reference: Reference, package: str) -> None:
        name = reference.name
        self.tag("import", name, reference.level, *reference.path)
        if reference.level:
            name = importlib.util.resolve_name("." * reference.level + name, package)
        if place_of(name) != "user":
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
            module = module_dict(value)
            if place_of(module.get("__name__", "")) != "user":
                break
            self.tag("of", name)
            if name not in module:
                self.tag("unbound")
                return
            self.path[-1] = f"{self.path[-1]}, its {name!r}" if index == 0 else f"{self.path[-1]}.{name}"
            value = module[name]
        self.value(value)

    def _builtin(self, value: types.BuiltinFunctionType) -> None:
        owner: object = value.__self__
        if owner is None or isinstance(owner, types.ModuleType):
            self._by_name(value.__module__ or holder_of(value), value.__qualname__)
        elif not self._bound_by_module(value, owner):
            self.tag("method", value.__name__)
            self.value(owner)

    def _method(self, value: types.MethodType) -> None:
        if not self._bound_by_module(value, value.__self__):
            self.tag("method")
            self.value(value.__self__)
            self.value(value.__func__)

    def _bound_by_module(self, value: types.MethodType | types.BuiltinFunctionType, owner: object) -> bool:
        """Take in a method that a module offers as a function of its own, such as ``numpy.random.normal``."""
        home = type(owner).__module__
        if place_of(home) == "user" or _found_at(home, value.__name__) != value:
            return False
        self._by_name(home, value.__name__)
        return True

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
        if place_of(kind.__module__) != "user":
            self._by_name(kind.__module__, kind.__qualname__)
            return
        self._number(kind)
        self.tag("class", kind.__name__)
        for base in kind.__bases__:
            self.value(base)
        if type(kind) is not type:
            self.value(type(kind))
        skip = _CLASS_NAMES | set(getattr(kind, "_fields", ()) if issubclass(kind, tuple) else ())
        if dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                self.tag("field", field.name, str(field.init), str(field.compare), str(field.kw_only))
                with self.at(f"class {kind.__name__!r}, its field {field.name!r}"):
                    self.value(field.default)
                    self.value(field.default_factory)
        if issubclass(kind, tuple) and hasattr(kind, "_fields"):
            self.tag("fields", *kind._fields)
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


# fmt: off
_CLASS_NAMES = frozenset({
    "__module__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__", "__annotate_func__",
    "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__qualname__", "__parameters__",
    "__orig_bases__", "__abstractmethods__", "_abc_impl", "__match_args__", "__dataclass_fields__",
    "__dataclass_params__", "__struct_fields__", "__struct_defaults__", "__struct_config__",
    "__struct_encode_fields__", "_member_names_", "_member_map_", "_value2member_map_", "_member_type_",
    "_unhashable_values_", "_unhashable_values_map_", "_hashable_values_", "_generate_next_value_", "_new_member_",
    "_use_args_", "_value_repr_", "_is_protocol", "__protocol_attrs__", "__non_callable_proto_members__",
    "__openhcs__",
})
# fmt: on


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


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


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

_KINDS: dict[type, Callable[[Walk, Any], None]] = {
    list: Walk._items,
    tuple: Walk._items,
    deque: Walk._items,
    set: Walk._set,
    frozenset: Walk._set,
    dict: Walk._dict,
    OrderedDict: Walk._dict,
    types.MappingProxyType: Walk._dict,
    defaultdict: Walk._defaultdict,
    types.FunctionType: Walk._function,
    types.BuiltinFunctionType: Walk._builtin,
    types.MethodType: Walk._method,
    functools.partial: Walk._partial,
    functools._lru_cache_wrapper: Walk._wrapped,
    staticmethod: Walk._wrapped,
    classmethod: Walk._wrapped,
    property: Walk._property,
    functools.cached_property: Walk._cached_property,
    types.MemberDescriptorType: Walk._descriptor,
    types.GetSetDescriptorType: Walk._descriptor,
    types.WrapperDescriptorType: Walk._descriptor,
    types.MethodDescriptorType: Walk._descriptor,
    types.ClassMethodDescriptorType: Walk._descriptor,
    types.CodeType: lambda walk, code: walk._code(code, None),
}
