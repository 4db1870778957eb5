"""Which modules are imported before workers are forked: what all need, what many do, and what a run's functions do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

from openhcs_jupyter.pipeline._packages import OWN, place_of
from openhcs_jupyter.pipeline.chains import Chains

NEEDED = (
    "numpy",
    "openhcs_jupyter.engine.worker",
    "openhcs_jupyter.repository.embedded.pixels",
    "openhcs_jupyter.repository.embedded.results",
    "tifffile",
    "imagecodecs",
    "cv2",
)
"""What every worker needs."""
LIKELY = ("scipy.ndimage", "pyarrow", "pandas", "pyarrow.ipc", "openhcs_jupyter.functions._kernels")
"""What many need: a run asks for what its functions do, and the rest is imported while there is nothing else to do."""
_NOT_FORKED = {"cupy", "cupyx", "cucim", "torch", "jax", "tensorflow"}
"""Packages of GPUs, whose state does not survive a fork: each worker imports them itself."""


def modules_of(calls: Mapping[int, Chains]) -> tuple[str, ...]:
    """List the installed modules that the functions of steps need, by their index."""
    found: set[str] = set()
    functions = [call.function for chains in calls.values() for chain in chains.values() for call in chain]
    for function in functions:
        plain = inspect.unwrap(function)
        found.add(str(getattr(plain, "__module__", "")))
        names = getattr(plain, "__globals__", {})
        for name in getattr(getattr(plain, "__code__", None), "co_names", ()):
            value = names.get(name)
            if isinstance(value, ModuleType):
                found.add(value.__name__)
            elif callable(value):
                found.add(str(getattr(value, "__module__", "")))
    found |= _imported_later(functions)
    return tuple(sorted(name for name in found if name and _is_forked(name)))


def imported_by(python: str) -> tuple[str, ...]:
    """List the installed modules that a text imports, in its order, without executing it.

    What is imported from a package may be a module of it or something else: both names are listed, the package's first.
    """
    try:
        tree = ast.parse(python)
    except SyntaxError:  # whoever executes it says so
        return ()
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= dict.fromkeys((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return tuple(name for name in found if _is_forked(name))


def _is_forked(module: str) -> bool:
    return module.partition(".")[0] not in _NOT_FORKED and place_of(module) in ("installed", "own")


def _imported_later(functions: Iterable[Callable[..., Any]]) -> set[str]:
    """Find those modules of `LIKELY` that functions or their helpers import when they are called."""
    words: set[str] = set()
    todo: list[tuple[CodeType, Mapping[str, Any]]] = []
    for function in functions:
        plain = inspect.unwrap(function)
        if isinstance(plain, FunctionType):
            todo.append((plain.__code__, plain.__globals__))
    seen = set()
    while todo:
        code, names = todo.pop()
        if code in seen:
            continue
        seen.add(code)
        words.update(part for name in code.co_names for part in name.split("."))
        todo += [(constant, names) for constant in code.co_consts if isinstance(constant, CodeType)]
        helpers = (names.get(name) for name in code.co_names)
        todo += [(one.__code__, one.__globals__) for one in helpers if isinstance(one, FunctionType)]
    if "pandas" in words:
        words.add("pyarrow")  # for what becomes of a table
    return {module for module in LIKELY if _telling(module) in words}


def _telling(module: str) -> str:
    """Return the word by which a function that imports a module has it among its names."""
    words = module.split(".")
    return words[-1] if words[0] == OWN else words[0]
