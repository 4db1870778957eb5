"""Source capture: one text that makes a cell's steps again, with all that the cell takes from earlier cells."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from openhcs_jupyter.errors import OpenHCSError
from openhcs_jupyter.pipeline._names import Needs, compiled, needs_of
from openhcs_jupyter.pipeline._writer import Writer


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


class Captured(NamedTuple):
    """A cell as one text in two parts."""

    before: str
    """Imports, functions, classes and small constants to which the cell refers."""
    source: str
    """The cell, with the same line numbers."""

    @property
    def text(self) -> str:
        """The whole."""
        return f"{self.before}\n\n{self.source}" if self.before else self.source


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
    needs = needs_of(compiled(tree, namespace))
    lost = _read_before_set(tree, needs, namespace)
    gone = dict.fromkeys(sorted(lost), "used before the cell sets it anew, so that its earlier value is gone")
    return _captured(source, tree, needs, Writer(namespace, needs.bound), gone).text


def capture_ahead(source: str, namespace: Mapping[str, Any]) -> Captured:
    """Write the same of a cell that has not run: `namespace` is as the cells before it have left it.

    Raises
    ------
    SourceError, SyntaxError
        As `capture` does.
    """
    tree = ast.parse(source)
    needs = needs_of(compiled(tree, namespace))
    writer = Writer(namespace, needs.bound)
    for name in sorted(_read_before_set(tree, needs, namespace)):
        writer.write(name)
    return _captured(source, tree, needs, writer, {})


def _captured(source: str, tree: ast.Module, needs: Needs, writer: Writer, problems: dict[str, str]) -> Captured:
    for name in (*needs.at_once, *needs.later):
        if name not in needs.bound:
            writer.write(name)
    writer.submodules(compiled(tree, writer.namespace))
    problems = problems | writer.problems
    if problems:
        raise SourceError(dict(sorted(problems.items())))
    futures, rest = _without_futures(source, tree)
    return Captured(writer.text(futures), rest)


def _read_before_set(tree: ast.Module, needs: Needs, namespace: Mapping[str, Any]) -> set[str]:
    """Find names that a cell takes from earlier cells and then sets anew; what a loop carries over is its own."""
    doubtful = needs.at_once.keys() & needs.bound & namespace.keys()
    found: set[str] = set()
    bound: set[str] = set()
    for statement in tree.body if doubtful else ():
        own = needs_of(compiled(ast.Module([statement], []), namespace))
        carried = own.bound if isinstance(statement, ast.For | ast.While) else frozenset()
        found |= (own.at_once.keys() & doubtful) - bound - carried
        bound |= own.bound
    return found


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
