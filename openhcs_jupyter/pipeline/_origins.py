"""Finds in cells and files the text that made a function or a class."""

from __future__ import annotations

import ast
import inspect
import linecache
import types
from collections.abc import Iterator
from typing import Any, NamedTuple


class Statement(NamedTuple):
    """A statement at the top of a cell or file."""

    tree: ast.stmt
    text: str


def statement_of(name: str, value: Any) -> Statement | None:
    """Find the statement of a cell or file that made a function or class under a name."""
    for filename, line in _places(value):
        lines = linecache.getlines(filename)
        try:
            tree = ast.parse("".join(lines))
        except SyntaxError:
            continue
        for statement in reversed(tree.body):
            if line is not None and not first_line(statement) <= line <= (statement.end_lineno or 0):
                continue
            if name in binds(statement) and (line is not None or isinstance(statement, ast.ClassDef)):
                return Statement(
                    statement, "".join(lines[first_line(statement) - 1 : statement.end_lineno]).rstrip("\n")
                )
    return None


def inner_of(function: types.FunctionType) -> ast.FunctionDef | ast.Lambda | None:
    """Find the definition of a function wherever it stands: within another function, or in the midst of a line."""
    code = function.__code__
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except SyntaxError:
        return None
    kind = ast.Lambda if code.co_name == "<lambda>" else ast.FunctionDef
    found = [node for node in ast.walk(tree) if isinstance(node, kind) and first_line(node) == code.co_firstlineno]
    if kind is ast.FunctionDef:
        found = [node for node in found if isinstance(node, ast.FunctionDef) and node.name == code.co_name]
    elif len(found) > 1:
        # Of several on one line those that do the same are as good as each other.
        found = [node for node in found if _form(_compiled(node, code.co_freevars)) == _form(code)]
    return found[0] if found else None


def within(definition: ast.FunctionDef | ast.Lambda, factory: str, variables: tuple[str, ...]) -> ast.Module:
    """Write a function that makes the one of a definition, whose enclosing variables become parameters."""
    module = ast.parse(f"def {factory}({', '.join(variables)}): pass")
    made = module.body[0]
    assert isinstance(made, ast.FunctionDef)
    if isinstance(definition, ast.Lambda):
        made.body = [ast.Return(definition)]
    else:
        made.body = [definition, ast.Return(ast.Name(definition.name, ast.Load()))]
    return ast.fix_missing_locations(module)


def first_line(node: ast.stmt | ast.expr) -> int:
    """Return the line on which a definition begins, its decorators included."""
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(one.lineno for one in decorators)])


def binds(statement: ast.stmt) -> set[str]:
    """Name what a definition or a plain assignment binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


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


def _compiled(node: ast.Lambda | ast.FunctionDef, variables: tuple[str, ...]) -> types.CodeType:
    module = compile(within(node, "made", variables), "<made>", "exec", dont_inherit=True)
    factory = next(item for item in module.co_consts if isinstance(item, types.CodeType))
    return next(item for item in factory.co_consts if isinstance(item, types.CodeType))


def _form(code: types.CodeType) -> tuple[object, ...]:
    constants = [_form(item) if isinstance(item, types.CodeType) else repr(item) for item in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, *constants
