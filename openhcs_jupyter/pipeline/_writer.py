"""Writes values, functions and classes as source code, each after those that it needs itself."""

from __future__ import annotations

import ast
import builtins
import inspect
import itertools
import keyword
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from openhcs_jupyter.pipeline._expressions import Expressions, Unsayable, describe
from openhcs_jupyter.pipeline._imports import importable
from openhcs_jupyter.pipeline._names import annotations_stay_unread, compiled, needs_of, references
from openhcs_jupyter.pipeline._origins import inner_of, statement_of, within
from openhcs_jupyter.pipeline._packages import module_dict, place_of

_LONGEST = 20_000
"""Characters of a constant; more is data and belongs in a file."""


class Writer(Expressions):
    """Gathers the text of every name that is needed, each after those that it needs itself.

    Parameters
    ----------
    namespace
        Where names are looked up, unless the function that needs them has another.
    bound
        Names that the text to which this is written sets itself.
    """

    def __init__(self, namespace: Mapping[str, Any], bound: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.namespace = namespace
        self.bound = bound
        self.texts: list[str] = []
        self.problems: dict[str, str] = {}
        """By name: what cannot be written."""
        self._taken: dict[str, object] = {}
        """What stands under each name that was written, or tried."""
        self._open: set[int] = set()
        """Inner functions that are being written."""

    def text(self, futures: Iterable[str] = ()) -> str:
        """Return all that was written, imports first."""
        futures = set(futures)
        if annotations_stay_unread(self.namespace):
            futures.add("from __future__ import annotations")
        texts = (f"\n{text}" if "\n" in text else text for text in self.texts)
        return "\n".join([*sorted(futures), *_together(self.imports), *texts])

    def write(self, name: str, namespace: Mapping[str, Any] | None = None) -> None:
        """Write what a name stands for, once."""
        namespace = self.namespace if namespace is None else namespace
        if name not in namespace or (name.startswith("__") and name.endswith("__")):
            return
        value = namespace[name]
        if name in self._taken:
            if self._taken[name] is not value and name not in self.problems:
                self.problems[name] = f"{describe(value)}, and beside it {describe(self._taken[name])} of this name"
            return
        self._taken[name] = value
        if getattr(builtins, name, self) is value:
            return
        try:
            self._write(name, value, namespace)
        except Unsayable as error:
            self.problems[name] = str(error)

    def submodules(self, code: types.CodeType, namespace: Mapping[str, Any] | None = None) -> None:
        """Import the parts of packages that a piece of code reaches through the package's name."""
        for reference in references(code):
            value = (self.namespace if namespace is None else namespace).get(reference.name)
            for attribute in reference.path:
                if not isinstance(value, types.ModuleType):
                    break
                path = f"{module_dict(value)['__name__']}.{attribute}"
                value = sys.modules.get(path)
                if value is not None:
                    self.imports.add(f"import {path}")

    def refer(self, value: Any) -> str:
        """Write a function or class by the name that it has in the notebook or in its module.

        Raises
        ------
        Unsayable
            If it cannot be written.
        """
        own = getattr(value, "__name__", "")
        home = getattr(value, "__globals__", None)
        at_hand = self.namespace.items()
        written = [name for name, item in self._taken.items() if item is value and name not in self.problems]
        if written:
            return written[0]
        names = [name for name, item in at_hand if item is value and name.isidentifier() and name not in self._taken]
        for name in sorted(names, key=lambda name: (name != own, name)):
            self.write(name)
            if name not in self.problems:
                return name
        if getattr(builtins, own, None) is value:
            return str(own)
        if (found := importable(value)) is not None:
            module, path = found
            if path == own and self._is_free(own):
                self._taken[own] = value
                self.imports.add(f"from {module} import {own}")
                return str(own)
            self.imports.add(f"import {module}")
            return ".".join(found)
        if home is not None and home is not self.namespace and home.get(own) is value and own not in self._taken:
            self.write(own, home)
            if own not in self.problems:
                return str(own)
        if isinstance(value, types.FunctionType):
            name = self._fresh(own if own.isidentifier() else "function")
            self._taken[name] = value
            self._inner(name, value)
            return name
        raise Unsayable(describe(value))

    def _write(self, name: str, value: Any, namespace: Mapping[str, Any]) -> None:
        if isinstance(value, types.ModuleType):
            path = module_dict(value)["__name__"]
            if path == "__main__":
                raise Unsayable("the notebook's own namespace")
            self.imports.add(f"import {path}" if path == name else f"import {path} as {name}")
        elif (home := importable(value)) is not None:
            module, path = home
            if "." in path:
                self.imports.add(f"import {module}")
                self.texts.append(f"{name} = {module}.{path}")
            else:
                self.imports.add(f"from {module} import {path}" + (f" as {name}" if path != name else ""))
        elif isinstance(value, types.FunctionType | type) or hasattr(value, "__wrapped__"):
            self._definition(name, value, namespace)
        else:
            text = self.say(value)
            if len(text) > _LONGEST:
                raise Unsayable(f"{describe(value)} that takes {len(text):,} characters")
            self.texts.append(f"{name} = {text}")

    def _definition(self, name: str, value: Any, namespace: Mapping[str, Any]) -> None:
        original = getattr(value, "__name__", name)
        if original not in (name, "<lambda>") and namespace.get(original) is value:
            self.write(original, namespace)
            self.texts.append(f"{name} = {original}")
            return
        statement = statement_of(name, value)
        if statement is None:
            self._inner(name, value)
            return
        namespace = getattr(inspect.unwrap(value), "__globals__", namespace)
        self._take(compiled(ast.Module([statement.tree], []), namespace), statement.text, namespace)

    def _inner(self, name: str, value: Any) -> None:
        """Write a function that was made within another, with the values that it holds, or one without a name."""
        definition = inner_of(value) if isinstance(value, types.FunctionType) else None
        home = getattr(value, "__globals__", {})
        maker = getattr(value, "__qualname__", name).partition(".")[0]
        made = f"a function that {maker!r} made" if getattr(value, "__closure__", None) else describe(value)
        if definition is None or place_of(str(home.get("__name__", "__main__"))) != "user":
            raise Unsayable(f"{made}, whose source is not known" if definition is None else made)
        if id(value) in self._open:
            raise Unsayable("functions that hold each other")
        self._open.add(id(value))
        try:
            self._write_inner(name, value, definition, made)
        finally:
            self._open.discard(id(value))

    def _write_inner(
        self, name: str, value: types.FunctionType, definition: ast.FunctionDef | ast.Lambda, made: str
    ) -> None:
        def said(item: object, what: str) -> str:
            try:
                return self.say(item)
            except Unsayable as error:
                raise Unsayable(f"{made}, {what} is {error}") from None

        held = {}
        for variable, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                content = cell.cell_contents
            except ValueError:
                raise Unsayable(f"{made}, whose {variable!r} is not set yet") from None
            if content is not value or variable != value.__name__:
                held[variable] = said(content, f"whose {variable!r}")
        _say_defaults(definition, value, lambda item: said(item, "a default of which"))
        attributes = {key: item for key, item in vars(value).items() if key != "__doc__"}
        factory = self._fresh(f"make_{name}")
        self._taken[factory] = None
        tree = within(definition, factory, tuple(held))
        given = ", ".join(f"{variable}={text}" for variable, text in held.items())
        lines = [ast.unparse(tree), f"{name} = {factory}({given})"]
        if value.__name__ != value.__code__.co_name:
            lines.append(f"{name}.__name__ = {value.__name__!r}")  # as functools.wraps does
        lines += [f"{name}.{key} = {said(item, f'whose attribute {key!r}')}" for key, item in attributes.items()]
        self._take(compile(tree, "<cell>", "exec", dont_inherit=True), "\n".join(lines), value.__globals__)

    def _take(self, code: types.CodeType, text: str, namespace: Mapping[str, Any]) -> None:
        """Put a definition after what it needs at once, and before what it needs when it is called."""
        needs = needs_of(code)
        for needed in needs.at_once:
            self.write(needed, namespace)
        self.submodules(code, namespace)
        self.texts.append(text)
        for needed in needs.later:
            if needed not in self.bound:
                self.write(needed, namespace)

    def _fresh(self, base: str) -> str:
        """Return a name that stands for nothing yet."""
        names = itertools.chain([base], (f"{base}_{number}" for number in itertools.count(2)))
        return next(name for name in names if self._is_free(name))

    def _is_free(self, name: str) -> bool:
        known = name in self._taken or name in self.namespace or name in self.bound or hasattr(builtins, name)
        return name.isidentifier() and not known and not keyword.iskeyword(name)


def _together(imports: Iterable[str]) -> list[str]:
    """Import what comes from one module in one line."""
    of: dict[str, list[str]] = {}
    for line in sorted(imports):
        module, _, names = line.partition(" import ")
        of.setdefault(module if names else line, []).append(names)
    return [f"{module} import {', '.join(names)}" if names[0] else module for module, names in of.items()]


def _say_defaults(
    definition: ast.FunctionDef | ast.Lambda, function: types.FunctionType, say: Callable[[object], str]
) -> None:
    """Put the values of defaults where their expressions stood, and leave out what has had its effect already."""

    def written(item: object) -> ast.expr:
        return ast.parse(say(item), mode="eval").body

    arguments = definition.args
    arguments.defaults = [written(item) for item in function.__defaults__ or ()]
    by_keyword = function.__kwdefaults__ or {}
    arguments.kw_defaults = [
        written(by_keyword[argument.arg]) if argument.arg in by_keyword else None for argument in arguments.kwonlyargs
    ]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    if isinstance(definition, ast.FunctionDef):
        definition.decorator_list = []
        definition.returns = None
