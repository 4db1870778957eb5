"""Finds the names that a piece of code takes from, and puts into, the namespace in which it runs."""

from __future__ import annotations
import __future__

import ast
import dis
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from openhcs_jupyter.pipeline._bytecode import Reference, read

_COMPREHENSIONS = frozenset({"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"})


class Needs(NamedTuple):
    """Names that a piece of code takes from, and puts into, the namespace in which it runs."""

    at_once: dict[str, None]
    """Taken when the code itself runs."""
    later: dict[str, None]
    """Taken when a function that it defines is called."""
    bound: frozenset[str]


def needs_of(code: types.CodeType) -> Needs:
    """Find the names that a piece of code takes and puts."""
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
    return Needs(at_once, later, frozenset(bound))


def compiled(tree: ast.Module, namespace: Mapping[str, Any], filename: str = "<cell>") -> types.CodeType:
    """Compile a piece of a cell as the notebook does."""
    flags = __future__.annotations.compiler_flag if annotations_stay_unread(namespace) else 0
    code: types.CodeType = compile(tree, filename, "exec", flags=flags, dont_inherit=True)
    return code


def annotations_stay_unread(namespace: Mapping[str, Any]) -> bool:
    """Tell whether a cell has imported ``annotations`` from ``__future__``, which holds for all cells after it."""
    return namespace.get("annotations") is __future__.annotations


def references(code: types.CodeType) -> Iterator[Reference]:
    """Iterate over the globals that a piece of code refers to, with what it takes of them."""
    yield from (reference for reference in read(code).references if reference.level < 0)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from references(constant)
