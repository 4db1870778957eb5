"""A pipeline as source code with small constants: what is sent to where it runs, and how it becomes steps there."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from openhcs_jupyter.door.blame import blame
from openhcs_jupyter.door.text import CONFIG, STEPS, Source, check_assigns, checked_steps, define_steps, python_of
from openhcs_jupyter.errors import CompileError, Problem, UsageError
from openhcs_jupyter.pipeline import FunctionStep, Step
from openhcs_jupyter.pipeline._expressions import Unsayable
from openhcs_jupyter.pipeline._writer import Writer
from openhcs_jupyter.pipeline.modules import modules_of, write_modules
from openhcs_jupyter.pipeline.openhcs.plain import plain_config
from openhcs_jupyter.pipeline.source import SourceError, capture_ahead

_HINT = (
    "Make it within the cell that is sent, or load it inside the function that uses it:\n"
    "the path of its file, as the server sees it, can be a parameter."
)
_LONGEST = 3_000_000
"""Characters of all source together."""


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as text. Holds code and small constants, never a pickle."""

    cell: str
    """Python that assigns ``pipeline_steps``, with the line numbers of what the user wrote."""
    text: str
    """What the user wrote."""
    text_name: str
    """Where it stood: ``Cell In[3]``, a file's name."""
    before: str = ""
    """Python that makes what `cell` takes from elsewhere: imports, functions, classes, small constants."""
    modules: dict[str, str] = {}
    """Text of the user's own modules that take part, by path: ``mylab/steps.py``."""

    @property
    def script(self) -> str:
        """Python that makes the same steps by itself, where the modules are at hand."""
        return f"{self.before}\n\n{self.cell}" if self.before else self.cell


def code_of_text(source: Source, namespace: Mapping[str, Any]) -> Code:
    """Make what is sent of the text of a cell or file, which is not run.

    Parameters
    ----------
    source
        Assigns ``pipeline_steps``; may begin with the magic's line.
    namespace
        As the cells before have left it.

    Raises
    ------
    CompileError
        If it takes from `namespace` what cannot be written as source; names it, the step that uses it and its line.
    UsageError
        If it does not assign ``pipeline_steps``, or there is too much of it.
    SyntaxError
        If it is not Python.
    """
    python = python_of(source)
    check_assigns(compile(python, source.filename, "exec", dont_inherit=True), source.name)
    try:
        captured = capture_ahead(python, namespace)
    except SourceError as error:
        problems = [
            Problem(
                message=f"{f'step {one.step!r}: ' if one.step else ''}{one.name!r} cannot be sent: {one.what}",
                hint=_HINT,
                line=one.line,
                step=one.step,
            )
            for one in blame(python, namespace, error.names)
        ]
        raise CompileError(problems, source.name) from None
    return _checked(Code(cell=captured.source, text=source.text, text_name=source.name, before=captured.before))


def code_of_steps(steps: Sequence[Step | FunctionStep | Any], config: object = None, source_name: str = STEPS) -> Code:
    """Make what is sent of steps, OpenHCS's too.

    Parameters
    ----------
    steps
        May use functions of notebooks, scripts and modules, also those made within other functions.
    config
        What OpenHCS's steps have in common.
    source_name
        What error messages call the pipeline.

    Raises
    ------
    CompileError
        If a step has what cannot be written as source; names it and the step.
    UsageError
        If these are no steps, or there is too much of it.
    """
    checked = checked_steps(steps, config)
    writer = Writer(vars(sys.modules["__main__"]), frozenset({STEPS, CONFIG}))
    problems: list[Problem] = []
    lines: list[str] = []
    for step in checked:
        known = set(writer.problems)
        text = ""
        try:
            text = writer.say(step)
        except Unsayable as error:
            problems.append(_problem(step, f"{_place(error.where)} is {error.what}, which cannot be sent"))
        problems += [
            _problem(step, f"{name!r}, which it uses, cannot be sent: {what}")
            for name, what in writer.problems.items()
            if name not in known
        ]
        lines.append(f"    {text},")
    if config is None:
        config = next((step.pipeline_config for step in checked if isinstance(step, FunctionStep)), None)
    said = plain_config(config)
    try:
        common = f"{CONFIG} = {writer.say(said)}\n" if said else ""
    except Unsayable as error:
        raise UsageError(f"{CONFIG}{error.where} is {error.what}, which cannot be sent", _HINT) from None
    if problems:
        raise CompileError(problems, source_name)
    cell = "\n".join([f"{common}{STEPS} = [", *lines, "]", ""])
    return _checked(Code(cell=cell, text=cell, text_name=source_name, before=writer.text()))


def load(code: Code, folder: Path, name: str | None = None) -> list[Step | FunctionStep]:
    """Make the steps of a pipeline that was sent: runs its code.

    Parameters
    ----------
    code
        Of a user whose code may run in this process.
    folder
        Takes the user's modules, and becomes the first place where Python looks for modules.
    name
        Under which tracebacks know the cell; left out, as the user knows it.

    Raises
    ------
    UsageError
        If it does not assign a list of steps, or its modules have names that are none.
    CellError
        If it is not Python.
    """
    if code.modules:
        write_modules(code.modules, folder)
        sys.path.insert(0, str(folder))
    name = name or code.text_name
    # Functions that belong to __main__ go to the workers by value, as those of a notebook do.
    namespace: dict[str, Any] = {"__name__": "__main__"}
    before = _remembered(f"<before {name}>", code.before)
    exec(compile(code.before, before, "exec", dont_inherit=True), namespace)  # noqa: S102 - running the user's code is what this is for
    return define_steps(Source(code.text_name, code.text, _remembered(name, code.cell)), code.cell, namespace)


def _remembered(filename: str, text: str) -> str:
    """Make the lines of a text known to tracebacks and to whoever looks for the source of functions."""
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    return filename


def _checked(code: Code) -> Code:
    whole = msgspec.structs.replace(code, modules=modules_of(code.script))
    size = len(whole.cell) + len(whole.before) + sum(map(len, whole.modules.values()))
    if size > _LONGEST:
        largest = max(whole.modules, key=lambda name: len(whole.modules[name]), default=None)
        raise UsageError(
            f"The pipeline's source takes {size:,} characters; {_LONGEST:,} can be sent"
            + (f", and {largest} is the largest of its {len(whole.modules)} modules" if largest else ""),
            "Install the modules on the server, as a package.",
        )
    return whole


def _problem(step: Step | FunctionStep, message: str) -> Problem:
    return Problem(message=f"step {step.name!r}: {message}", hint=_HINT, line=step.line or None, step=step.name)


def _place(path: str) -> str:
    """Say in words where something is within a step."""
    name, _, rest = path.removeprefix("params[").partition("]")
    if path.startswith("params["):
        return f"parameter {name}{rest}"
    return path or "it"
