"""What is done with each kind of value on the walk of a fingerprint."""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import pathlib
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from openhcs_jupyter.pipeline._identity import code, objects, values
from openhcs_jupyter.pipeline._identity.walk import Walk
from openhcs_jupyter.pipeline._packages import distribution, place_of


def take(walk: Walk, value: Any) -> None:
    """Take in a value that is not simple."""
    kind = type(value)
    if (known := _KINDS.get(kind)) is not None:
        known(walk, value)
    elif isinstance(value, type):
        objects.take_class(walk, value)
    elif isinstance(value, types.ModuleType):
        code.take_module(walk, value)
    elif isinstance(value, np.ndarray):
        values.take_array(walk, value)
    elif isinstance(value, np.generic):
        walk.tag("scalar", value.dtype.str, value.tobytes())
    elif isinstance(value, np.dtype):
        walk.tag("dtype", repr(value))
    elif isinstance(value, enum.Enum):
        objects.take_class(walk, kind)
        walk.tag("member", value.name)
    elif isinstance(value, pathlib.PurePath):
        walk.tag("path", str(value))
    elif isinstance(value, logging.Logger):
        walk.tag("logger", value.name)
    elif values.take_pandas(walk, value) or objects.take_named_callable(walk, value):
        pass
    elif hasattr(value, "py_func") and kind.__module__.startswith("numba."):
        walk.packages.add("numba")
        walk.tag("numba", *distribution("numba"))
        walk.value(value.py_func)
        walk.value(dict(sorted(value.targetoptions.items())))
    elif kind.__module__ == "typing" or isinstance(value, types.GenericAlias | types.UnionType):
        walk.tag("annotation", repr(value))
    elif isinstance(value, msgspec.Struct):
        objects.take_fields(walk, value, value.__struct_fields__)
    elif dataclasses.is_dataclass(value):
        objects.take_fields(walk, value, tuple(field.name for field in dataclasses.fields(value)))
    elif place_of(kind.__module__) == "user" and objects.state_is_visible(kind):
        objects.take_object(walk, value)
    elif not objects.take_named_constant(walk, value):
        raise walk.fail(value)


_KINDS: dict[type, Callable[[Walk, Any], None]] = {
    list: values.take_items,
    tuple: values.take_items,
    deque: values.take_items,
    set: values.take_set,
    frozenset: values.take_set,
    dict: values.take_dict,
    OrderedDict: values.take_dict,
    types.MappingProxyType: values.take_dict,
    defaultdict: values.take_defaultdict,
    types.FunctionType: code.take_function,
    types.BuiltinFunctionType: code.take_builtin,
    types.MethodType: code.take_method,
    functools.partial: code.take_partial,
    functools._lru_cache_wrapper: code.take_wrapped,
    staticmethod: code.take_wrapped,
    classmethod: code.take_wrapped,
    property: code.take_property,
    functools.cached_property: code.take_cached_property,
    types.MemberDescriptorType: code.take_descriptor,
    types.GetSetDescriptorType: code.take_descriptor,
    types.WrapperDescriptorType: code.take_descriptor,
    types.MethodDescriptorType: code.take_descriptor,
    types.ClassMethodDescriptorType: code.take_descriptor,
    types.CodeType: lambda walk, value: code.take_code(walk, value, None),
}
