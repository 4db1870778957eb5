"""The user's own modules that a text imports: found where it was written, put down where it runs."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.pipeline._packages import place_of


def modules_of(text: str) -> dict[str, str]:
    """Return the text of every module of the user that a text imports, and of those that these import, by path.

    What is part of Python or installed is left to where the text runs, and so is what is not written in Python.
    """
    found: dict[str, str] = {}
    todo = list(_imported(text, ""))
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        if place_of(name) != "user":
            continue
        parent = name.rpartition(".")[0]
        if parent:
            todo.append(parent)
        file = _file(name)
        if file is None:
            continue
        is_package = file.name == "__init__.py"
        path = f"{name.replace('.', '/')}{'/__init__' if is_package else ''}.py"
        found[path] = file.read_text(encoding="utf-8")
        todo += _imported(found[path], name if is_package else parent)
    return dict(sorted(found.items()))


def write_modules(modules: Mapping[str, str], folder: Path) -> None:
    """Write modules into a folder.

    Parameters
    ----------
    modules
        Their text, by path.
    folder
        Is made if it is not there.

    Raises
    ------
    UsageError
        If a path is no module's; nothing is written then.
    """
    for name in modules:
        if not name.endswith(".py") or not all(part.isidentifier() for part in name.removesuffix(".py").split("/")):
            raise UsageError(f"{name!r} is no name of a module")
    for name, text in modules.items():
        file = folder.joinpath(*name.split("/"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _file(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):  # no module, or its package is none
        return None
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _imported(text: str, package: str) -> Iterator[str]:
    """Name what a text imports; of ``from a import b`` both, as b may be a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level and not package:
                continue
            relative = "." * node.level + (node.module or "")
            try:
                base = importlib.util.resolve_name(relative, package) if node.level else relative
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")
