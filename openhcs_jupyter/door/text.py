"""Text that defines a pipeline: read from a file or a cell, executed, and made one script of."""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any, NamedTuple

from openhcs_jupyter.errors import UsageError

if TYPE_CHECKING:
    from openhcs_jupyter.pipeline import FunctionStep, Step

STEPS = "pipeline_steps"
_FUTURES = functools.reduce(
    operator.or_, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
CONFIG = "pipeline_config"
"""What OpenHCS's documents call the settings that all of their steps have in common."""


class Source(NamedTuple):
    """Text that defines a pipeline."""

    name: str
    """How the user knows it: ``Cell In[3]``, a file's name."""
    text: str
    """All of it; line 1 of a cell is the magic's own."""
    filename: str
    """The name under which it was compiled."""

    def line(self, number: int) -> str:
        """Return a line, counted from 1, or an empty string."""
        lines = self.text.splitlines()
        return lines[number - 1] if 0 < number <= len(lines) else ""


class CellError(UsageError):
    """The cell is not valid Python."""

    def __init__(self, error: SyntaxError) -> None:
        super().__init__(f"{type(error).__name__}: {error.msg}")
        self.error = error


def define_steps(source: Source, code: str, namespace: dict[str, Any], *, flags: int = 0) -> list[Step | FunctionStep]:
    """Execute the text that defines a pipeline, and return its steps.

    Parameters
    ----------
    source
        What the user wrote.
    code
        The same as Python, with the same line numbers.
    namespace
        Where it is executed; keeps what the text defines.
    flags
        Of a code object that was executed before; its ``__future__`` imports hold here, too.

    Raises
    ------
    CellError
        If the text is not valid Python.
    UsageError
        If it does not assign a list of steps to ``pipeline_steps``.
    """
    try:
        compiled = compile(code, source.filename, "exec", flags & _FUTURES, dont_inherit=True)
    except SyntaxError as error:
        raise CellError(error) from None
    check_assigns(compiled, source.name)
    exec(compiled, namespace)  # noqa: S102 - running the user's code is what this is for
    config = namespace.get(CONFIG) if _assigns(compiled, CONFIG) else None
    return checked_steps(namespace.get(STEPS), config, [entry.lineno for entry in entries(code)])


class Script(NamedTuple):
    """What makes a cell's steps again without the cells before it."""

    text: str
    """Python; empty where it cannot be written."""
    unsaid: Mapping[str, str]
    """By name: what cannot be written."""


def script_of(code: str, namespace: dict[str, Any]) -> Script:
    """Write one text that makes the steps again of a text that `define_steps` has executed in `namespace`."""
    from openhcs_jupyter.pipeline.source import SourceError, capture

    try:
        return Script(capture(code.removeprefix("\n"), namespace), {})
    except SourceError as error:
        return Script("", error.names)


def read_source(file: str) -> Source:
    """Read a file that defines a pipeline.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    if file.endswith(".ipynb"):
        raise UsageError(f"{file} is a notebook", "Run it with: jupyter nbconvert --to html --execute")
    path = Path(file).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(
            f"{file} cannot be read: {reason}", "Name a Python file that assigns pipeline_steps."
        ) from None
    return Source(path.name, text, str(path.resolve()))


def python_of(source: Source) -> str:
    """Return a source as Python, with the same line numbers: a file may hold a cell with its first line."""
    first, _, rest = source.text.partition("\n")
    return f"\n{rest}" if first.startswith("%%openhcs") else source.text


def check_assigns(code: CodeType, name: str) -> None:
    """Check that a pipeline's text assigns its steps.

    Raises
    ------
    UsageError
        If it does not.
    """
    if not _assigns(code, STEPS):
        raise UsageError(f"{name} does not assign {STEPS}", f"A pipeline is a list: {STEPS} = [Step(...), ...]")


def _assigns(code: CodeType, name: str) -> bool:
    stores = {"STORE_NAME", "STORE_GLOBAL"}
    return any(step.opname in stores and step.argval == name for step in dis.get_instructions(code))


def entries(code: str) -> list[ast.expr]:
    """Find the entries of the list of steps in a text; none where it is no plain list."""
    found: list[ast.expr] = []
    for statement in ast.parse(code).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        if any(isinstance(target, ast.Name) and target.id == STEPS for target in targets):
            value = getattr(statement, "value", None)
            found = value.elts if isinstance(value, ast.List | ast.Tuple) else []
    return found


def checked_steps(steps: object, config: object = None, lines: Sequence[int] = ()) -> list[Step | FunctionStep]:
    """Check that a value is a list of steps, ours or OpenHCS's.

    Parameters
    ----------
    steps
        The value.
    config
        What OpenHCS's steps have in common.
    lines
        On which they were written, where that is known.

    Raises
    ------
    UsageError
        If it is not; says which entry is what.
    """
    from openhcs_jupyter.pipeline import Step, function_step, is_function_step

    if isinstance(steps, Step) or is_function_step(steps):
        raise UsageError(f"{STEPS} is one Step", f"Put it into a list: {STEPS} = [Step(...)]")
    if not isinstance(steps, list | tuple):
        raise UsageError(f"{STEPS} is a {type(steps).__name__}", f"A pipeline is a list: {STEPS} = [Step(...), ...]")
    checked: list[Step | FunctionStep] = []
    for number, step in enumerate(steps, 1):
        if isinstance(step, Step):
            checked.append(step)
        elif is_function_step(step):
            taken = function_step(step, config)
            taken.line = taken.line or (lines[number - 1] if len(lines) == len(steps) else 0)
            checked.append(taken)
        else:
            what = getattr(step, "__name__", None) or type(step).__name__
            raise UsageError(f"Entry {number} of {STEPS} is {what}, not a Step", "Wrap it: Step(function, {params}).")
    return checked
