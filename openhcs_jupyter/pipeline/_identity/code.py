"""What is taken in of functions, the code that they run, and the modules that they name."""

from __future__ import annotations

import builtins
import functools
import importlib
import importlib.util
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from openhcs_jupyter.pipeline._bytecode import Reference, read
from openhcs_jupyter.pipeline._packages import found_at, holder_of, module_dict, place_of
from openhcs_jupyter.pipeline.contracts import ATTRIBUTE, Contract

if TYPE_CHECKING:
    from openhcs_jupyter.pipeline._identity.walk import Walk

_FLAGS = 0x3EF
"""Of a code object's flags, those that say how it runs: not nesting, docstring, or futures."""
_MODULE_NAMES = frozenset(
    {"__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"}
)
_BUILTINS = vars(builtins)


def take_module(walk: Walk, module: types.ModuleType) -> None:
    name = module_dict(module).get("__name__", "")
    if place_of(name) != "user":
        walk.by_name(name, "")
        return
    walk.number(module)
    walk.tag("module")
    for key, item in sorted(module_dict(module).items()):
        if not key.startswith("__"):
            walk.tag(key)
            with walk.at(f"module {name!r}, its {key!r}"):
                walk.value(item)


def take_function(walk: Walk, function: types.FunctionType) -> None:
    module = function.__module__ or ""
    if place_of(module) != "user" and found_at(module, function.__qualname__) is function:
        walk.by_name(module, function.__qualname__)
        return
    walk.number(function)
    before, walk.function = walk.function, walk.function or function.__name__
    if len(walk.path) > 1 and place_of(module) == "user":
        walk.function = function.__name__
    walk.tag("function")
    defaults = function.__defaults__ or ()
    positional = function.__code__.co_varnames[: function.__code__.co_argcount]
    with_defaults = positional[len(positional) - len(defaults) :]
    for name, value in zip(with_defaults, defaults, strict=True):
        walk.tag("default", name)
        with walk.at(f"the default of parameter {name!r}"):
            walk.value(value)
    for name, value in sorted((function.__kwdefaults__ or {}).items()):
        walk.tag("default", name)
        with walk.at(f"the default of parameter {name!r}"):
            walk.value(value)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        walk.tag("closure", name)
        with walk.at(f"the enclosing function's variable {name!r}"):
            try:
                content = cell.cell_contents
            except ValueError:
                walk.tag("unbound")
            else:
                walk.value(content)
    for name, value in sorted(vars(function).items()):
        if name == ATTRIBUTE and isinstance(value, Contract):
            walk.tag("contract", str(value.kind), str(value.stack))
        elif not name.startswith("__"):
            walk.tag("attribute", name)
            with walk.at(f"attribute {name!r}"):
                walk.value(value)
    take_code(walk, function.__code__, function.__globals__)
    walk.function = before


def take_code(walk: Walk, code: types.CodeType, namespace: Mapping[str, Any] | None) -> None:
    form = read(code)
    walk.tag(
        "code",
        form.instructions,
        *form.names,
        code.co_argcount,
        code.co_posonlyargcount,
        code.co_kwonlyargcount,
        code.co_flags & _FLAGS,
    )
    walk.tag("variables", *code.co_varnames, "", *code.co_cellvars, "", *code.co_freevars)
    for constant in form.constants:
        if isinstance(constant, types.CodeType):
            take_code(walk, constant, namespace)
        else:
            walk.value(constant)
    if namespace is None:
        return
    home = str(namespace.get("__name__", "__main__"))
    if place_of(home) != "user":
        walk.by_name(home, "")
        return
    for reference in form.references:
        if reference.level >= 0:
            _imported(walk, reference, str(namespace.get("__package__") or ""))
        elif reference.name not in _MODULE_NAMES:
            _global(walk, reference, namespace)


def _global(walk: Walk, reference: Reference, namespace: Mapping[str, Any]) -> None:
    name = reference.name
    if name in namespace:
        walk.tag("global", name)
        with walk.at(f"global {name!r}"):
            _attribute(walk, namespace[name], reference.path)
    elif name not in _BUILTINS:
        walk.tag("unbound", name)


def _imported(walk: Walk, reference: Reference, package: str) -> None:
    name = reference.name
    walk.tag("import", name, reference.level, *reference.path)
    if reference.level:
        name = importlib.util.resolve_name("." * reference.level + name, package)
    if place_of(name) != "user":
        walk.by_name(name, "")
        return
    try:
        module = importlib.import_module(name)
    except ImportError:
        # The function will say so when it is called, or handles it.
        walk.tag("missing")
        return
    with walk.at(f"module {name!r}"):
        _attribute(walk, module, reference.path)


def _attribute(walk: Walk, value: object, path: tuple[str, ...]) -> None:
    """Take in a value, or, of a user's module, only the attribute that is asked of it."""
    for index, name in enumerate(path):
        if not isinstance(value, types.ModuleType):
            break
        module = module_dict(value)
        if place_of(module.get("__name__", "")) != "user":
            break
        walk.tag("of", name)
        if name not in module:
            walk.tag("unbound")
            return
        walk.path[-1] = f"{walk.path[-1]}, its {name!r}" if index == 0 else f"{walk.path[-1]}.{name}"
        value = module[name]
    walk.value(value)


def take_builtin(walk: Walk, value: types.BuiltinFunctionType) -> None:
    owner: object = value.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        walk.by_name(value.__module__ or holder_of(value), value.__qualname__)
    elif not _bound_by_module(walk, value, owner):
        walk.tag("method", value.__name__)
        walk.value(owner)


def take_method(walk: Walk, value: types.MethodType) -> None:
    if not _bound_by_module(walk, value, value.__self__):
        walk.tag("method")
        walk.value(value.__self__)
        walk.value(value.__func__)


def _bound_by_module(walk: Walk, value: types.MethodType | types.BuiltinFunctionType, owner: object) -> bool:
    """Take in a method that a module offers as a function of its own, such as ``numpy.random.normal``."""
    home = type(owner).__module__
    if place_of(home) == "user" or found_at(home, value.__name__) != value:
        return False
    walk.by_name(home, value.__name__)
    return True


def take_partial(walk: Walk, value: functools.partial[Any]) -> None:
    walk.tag("partial")
    walk.value(value.func)
    walk.value(value.args)
    walk.value(value.keywords)


def take_wrapped(walk: Walk, value: Any) -> None:
    walk.tag("wrapped", type(value).__name__)
    walk.value(getattr(value, "__wrapped__", None) or value.__func__)


def take_property(walk: Walk, value: property) -> None:
    walk.tag("property")
    for part in (value.fget, value.fset, value.fdel):
        walk.value(part)


def take_cached_property(walk: Walk, value: functools.cached_property[Any]) -> None:
    walk.tag("cached")
    walk.value(value.func)


def take_descriptor(walk: Walk, value: Any) -> None:
    walk.tag("descriptor", value.__name__)
