"""Says which step of a text uses what cannot be written as source."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from openhcs_jupyter.door.text import entries
from openhcs_jupyter.pipeline._names import compiled, needs_of
from openhcs_jupyter.pipeline._writer import Writer


class Blamed(NamedTuple):
    """One name that cannot be written."""

    name: str
    what: str
    step: str | None
    """The first step that uses it, also through functions; None where none of the list does."""
    line: int | None


def blame(python: str, namespace: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Blamed]:
    """Find for each name that cannot be written the step that uses it.

    Parameters
    ----------
    python
        The text, with a list of steps.
    namespace
        As the cells before have left it.
    names
        What cannot be written, by its name.
    """
    tree = ast.parse(python)
    bound = needs_of(compiled(tree, namespace)).bound
    used = [(entry, _reached(ast.Expr(entry), tree, namespace, bound)) for entry in entries(python)]
    for name, what in names.items():
        entry = next((entry for entry, reached in used if name in reached), None)
        yield Blamed(name, what, *((_label(entry), entry.lineno) if entry is not None else (None, None)))


def _reached(node: ast.stmt, tree: ast.Module, namespace: Mapping[str, Any], bound: frozenset[str]) -> set[str]:
    """Name what a statement takes from the namespace, through the cell's own functions and those of earlier cells."""
    reached: set[str] = set()
    todo: list[ast.stmt] = [node]
    done: set[int] = set()
    while todo:
        statement = todo.pop()
        if id(statement) in done:
            continue
        done.add(id(statement))
        own = needs_of(compiled(ast.fix_missing_locations(ast.Module([statement], [])), namespace))
        for name in {*own.at_once, *own.later} - reached:
            reached.add(name)
            if name in bound:
                todo += [part for part in tree.body if name in _bound_by(part, namespace)]
            else:
                writer = Writer(namespace, bound)
                writer.write(name)
                reached |= writer.problems.keys()
    return reached


def _bound_by(statement: ast.stmt, namespace: Mapping[str, Any]) -> frozenset[str]:
    return needs_of(compiled(ast.Module([statement], []), namespace)).bound


def _label(entry: ast.expr) -> str:
    """Name a step as it will be named, as far as its text tells."""
    if isinstance(entry, ast.Call):
        for keyword in entry.keywords:
            if keyword.arg == "name" and isinstance(keyword.value, ast.Constant):
                return str(keyword.value.value)
        function = next((word.value for word in entry.keywords if word.arg in ("function", "func")), None)
        given: ast.expr | None = entry.args[0] if entry.args else function
        while isinstance(given, ast.List | ast.Tuple | ast.Dict):
            parts = given.values if isinstance(given, ast.Dict) else given.elts
            given = parts[0] if parts else None
        if given is not None:
            return ast.unparse(given)
    return ast.unparse(entry)
