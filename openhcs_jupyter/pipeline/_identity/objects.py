"""What is taken in of objects and classes."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
import types
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from openhcs_jupyter.pipeline._packages import found_at, module_dict, place_of

if TYPE_CHECKING:
    from openhcs_jupyter.pipeline._identity.walk import Walk

_CONTAINERS: tuple[type[Any], ...] = (dict, list, tuple, set, frozenset, str, bytes, int, float)
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


def take_fields(walk: Walk, value: object, fields: Iterable[str]) -> None:
    _type_of(walk, value)
    for name in fields:
        walk.tag(name)
        with walk.at(f".{name}"):
            walk.value(getattr(value, name, None))


def _type_of(walk: Walk, value: object) -> None:
    walk.tag("instance")
    walk.value(type(value))


def take_object(walk: Walk, value: object) -> None:
    _type_of(walk, value)
    for base in _CONTAINERS:
        if isinstance(value, base):
            walk.tag("content")
            walk.value(base(value))
    state = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and hasattr(value, name):
                state[name] = getattr(value, name)
    for name, item in sorted(state.items()):
        walk.tag(name)
        with walk.at(f".{name}"):
            walk.value(item)


def take_named_constant(walk: Walk, value: object) -> bool:
    """Take in what an installed module holds under a name of its own, such as ``dataclasses.MISSING``."""
    home = type(value).__module__
    if place_of(home) == "user" or home not in sys.modules:
        return False
    for name, item in module_dict(sys.modules[home]).items():
        if item is value:
            walk.by_name(home, name)
            return True
    return False


def take_named_callable(walk: Walk, value: Any) -> bool:
    """Take in what an installed module offers under its name: functions written in C or Cython, ufuncs."""
    homes: tuple[object, ...] = (getattr(value, "__module__", None),)
    name = getattr(value, "__qualname__", None)
    if isinstance(value, np.ufunc):
        homes, name = ("numpy", "scipy.special"), value.__name__
    for home in homes:
        if not isinstance(home, str) or not isinstance(name, str) or place_of(home) == "user":
            continue
        if found_at(home, name) is value:
            walk.by_name(home, name)
            return True
    return False


def take_class(walk: Walk, kind: type) -> None:
    if (known := walk.numbers.get(id(kind))) is not None:
        walk.tag("again", known[0])
        return
    if place_of(kind.__module__) != "user":
        walk.by_name(kind.__module__, kind.__qualname__)
        return
    walk.number(kind)
    walk.tag("class", kind.__name__)
    for base in kind.__bases__:
        walk.value(base)
    if type(kind) is not type:
        walk.value(type(kind))
    skip = _CLASS_NAMES | set(getattr(kind, "_fields", ()) if issubclass(kind, tuple) else ())
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            walk.tag("field", field.name, str(field.init), str(field.compare), str(field.kw_only))
            with walk.at(f"class {kind.__name__!r}, its field {field.name!r}"):
                walk.value(field.default)
                walk.value(field.default_factory)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        walk.tag("fields", *kind._fields)
    if issubclass(kind, msgspec.Struct):
        walk.tag("struct", *kind.__struct_fields__)
        walk.value(tuple(_plain_default(value) for value in kind.__struct_defaults__))
        skip = skip | set(kind.__struct_fields__)
    if issubclass(kind, enum.Enum):
        skip = skip | set(kind.__members__)
        for name, member in kind.__members__.items():
            walk.tag("member", name)
            with walk.at(f"class {kind.__name__!r}, its {name!r}"):
                walk.value(member.value)
    for name, item in sorted(vars(kind).items()):
        if name in skip or _is_generated(item):
            continue
        walk.tag(name)
        with walk.at(f"class {kind.__name__!r}, its {name!r}"):
            walk.value(item)


def _is_generated(item: object) -> bool:
    """Tell methods that dataclasses, named tuples and enums write themselves: the fields have said it all."""
    function = inspect.unwrap(getattr(item, "__func__", item)) if callable(item) else item
    return isinstance(function, types.FunctionType) and function.__code__.co_filename.startswith(
        ("<string>", "<namedtuple")
    )


def _plain_default(value: object) -> object:
    factory = getattr(value, "factory", None)
    return ("factory", factory) if factory is not None else repr(value) if value is msgspec.NODEFAULT else value


def state_is_visible(kind: type) -> bool:
    """Tell whether an object's attributes are all of its state: no base is written in C, plain containers aside."""
    return all(base.__flags__ & 1 << 9 or base in {object, *_CONTAINERS} for base in kind.__mro__)
