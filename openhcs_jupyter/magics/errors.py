"""Errors as a good compiler shows them: what, where in the cell, what to do; the long traceback on demand."""

from __future__ import annotations

import builtins
import linecache
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from openhcs_jupyter.door import CellError, Source
from openhcs_jupyter.errors import CompileError, OpenHCSError, RunError
from openhcs_jupyter.events import UnitFailed
from openhcs_jupyter.magics.options import nearest

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_SHOWN_FAILURES, _SHOWN_WELLS, _SHOWN_FIELDS = 8, 4, 8
# Front ends set errors on red of their own, so no colours.
_BOLD, _FAINT = "1", "2"


class UnitsError(RunError):
    """Units of a run failed.

    Parameters
    ----------
    message
        How many, of which run.
    hint
        How to go on.
    failures
        Which units, and why.
    told
        They are on the screen already.
    """

    def __init__(self, message: str, hint: str, failures: Sequence[UnitFailed], *, told: bool) -> None:
        super().__init__(message, hint)
        self.failures = tuple(failures)
        self.told = told


class RunInterrupted(KeyboardInterrupt):
    """The user interrupted a run; what is finished is kept."""


class _Position(NamedTuple):
    line: int
    start: int | None
    """First column, counted from 0."""
    end: int | None
    function: str


@contextmanager
def reported(source: Source | None, names: Iterable[str] = ()) -> Iterator[None]:
    """Make every error that leaves this block show itself briefly in IPython, with its line of the source.

    Parameters
    ----------
    source
        The cell or file that is being worked on; None where there is none.
    names
        Names that the source may use, for suggestions.
    """
    try:
        yield
    except (Exception, RunInterrupted) as error:
        if "_render_traceback_" not in vars(error):
            lines = short(error, source, names, color=True)
            # IPython asks the exception itself how it wants to be shown.
            error._render_traceback_ = lambda: lines  # type: ignore[union-attr]  # IPython looks for it
        raise


def show_briefly(shell: InteractiveShell, remember: Callable[[BaseException], None]) -> None:
    """Make our errors show themselves briefly in every cell, with the cell's line: ``nuclei.table("wels")``.

    Parameters
    ----------
    shell
        Knows its cells.
    remember
        Takes an error that is shown, for the long traceback on demand.
    """

    def lines(error: OpenHCSError) -> list[str]:
        remember(error)
        return short(error, _cell_of(error, shell), color=True)

    # IPython asks the exception itself how it wants to be shown; outside of IPython nobody does.
    OpenHCSError._render_traceback_ = lines  # type: ignore[attr-defined]  # IPython looks for it


def _cell_of(error: BaseException, shell: InteractiveShell) -> Source | None:
    """Find the cell that an error passed through."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        known = shell.compile.format_code_name(frame.filename)
        if known is not None:
            return Source(" ".join(known), "".join(linecache.getlines(frame.filename)), frame.filename)
    return None


def short(
    error: BaseException,
    source: Source | None = None,
    names: Iterable[str] = (),
    *,
    color: bool = False,
    on_demand: str = "%openhcs traceback",
) -> list[str]:
    """Render an error in a few lines.

    Parameters
    ----------
    error
        What was raised.
    source
        The cell or file that it belongs to; None where it is not known.
    names
        Names that the source may use; a misspelt one is told.
    color
        Use ANSI colours.
    on_demand
        The command that shows the long traceback.

    Returns
    -------
    list of str
        One entry a line.
    """
    more = _paint(f"  The long traceback: {on_demand}", _FAINT, color)
    if isinstance(error, CompileError):
        return _compile_error(error, source, color)
    if isinstance(error, CellError):
        return _syntax_error(error, source, color)
    if isinstance(error, UnitsError):
        lines = [_head("RunError", error.message, color)]
        if not error.told:
            lines += failure_lines(error.failures, source, color=color)
        return [*lines, f"  {error.hint}", more]
    if isinstance(error, OpenHCSError):
        lines = [_head(type(error).__name__, error.message, color)]
        lines += _position_lines(error.__traceback__, source, color)
        return [*lines, *(f"  {line}" for line in (error.hint or "").splitlines())]
    if isinstance(error, RunInterrupted):
        return [_paint(str(error), _BOLD, color)]
    return [*_foreign_error(error, source, names, color), more]


def failure_lines(failures: Sequence[UnitFailed], source: Source | None, *, color: bool = False) -> list[str]:
    """Tell which units failed and why; units that failed alike share an entry.

    Parameters
    ----------
    failures
        As a run lists them.
    source
        The cell or file; its lines are quoted.
    color
        Use ANSI colours.
    """
    alike: dict[tuple[str, str | None, int | None], list[UnitFailed]] = {}
    for failure in failures:
        alike.setdefault((failure.message, failure.step, failure.line), []).append(failure)
    lines: list[str] = []
    for (message, step, line), units in list(alike.items())[:_SHOWN_FAILURES]:
        where = f", step {step}" if step else ""
        at = f", line {line}" if line else ""
        lines.append(f"  {_paint(places(units), _BOLD, color)}{where}{at}: {message}")
        cause = _raising_line(units[0], source) or line
        if source is not None and cause:
            lines += _quote(source.line(cause), cause, color)
    if len(alike) > _SHOWN_FAILURES:
        lines.append(f"  and {len(alike) - _SHOWN_FAILURES} more kinds of failure")
    return lines


def places(failures: Sequence[UnitFailed]) -> str:
    """Name the wells and fields of failed units, the first few of many: ``A02 fields 1, 2; B01 field 4``."""
    fields: dict[str | None, list[int]] = {}
    for failure in sorted(failures, key=lambda failure: failure.unit):
        listed = fields.setdefault(failure.well, [])
        if failure.field is not None:
            listed.append(failure.field)
    names = [_place(well, numbers) for well, numbers in fields.items()]
    shown = "; ".join(names[:_SHOWN_WELLS])
    return f"{shown} and {len(names) - _SHOWN_WELLS} more wells" if len(names) > _SHOWN_WELLS else shown


def _place(well: str | None, fields: Sequence[int]) -> str:
    if well is None:
        return "the plate"
    if not fields:
        return well
    more = f" and {len(fields) - _SHOWN_FIELDS} more" if len(fields) > _SHOWN_FIELDS else ""
    return f"{well} field{'s' * (len(fields) > 1)} {', '.join(map(str, fields[:_SHOWN_FIELDS]))}{more}"


def _raising_line(failure: UnitFailed, source: Source | None) -> int | None:
    """Find the source's line that raised, where it did so within the source."""
    if source is None:
        return None
    lines = re.findall(rf'File "{re.escape(source.filename)}", line (\d+)', failure.traceback)
    return int(lines[-1]) if lines else None


def long(error: BaseException) -> str:
    """Render an error with its whole traceback, the tracebacks of failed units first."""
    parts = []
    told: set[str] = set()
    for failure in error.failures if isinstance(error, UnitsError) else ():
        if failure.traceback and failure.traceback not in told and len(told) < _SHOWN_FAILURES:
            told.add(failure.traceback)
            trace = _with_source(failure.traceback.rstrip())
            parts.append(f"{places([failure])}, step {failure.step}:\n{trace}\n")
    parts.append("".join(traceback.format_exception(error)))
    return "\n".join(parts)


def _with_source(trace: str) -> str:
    """Add the source lines of the notebook's cells, which a worker process does not know."""
    lines = trace.splitlines()
    whole = []
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        whole.append(line)
        match = re.match(r'  File "(.+)", line (\d+)', line)
        if match and not after.startswith("    ") and (text := linecache.getline(match[1], int(match[2])).strip()):
            whole.append(f"    {text}")
    return "\n".join(whole)


def _compile_error(error: CompileError, source: Source | None, color: bool) -> list[str]:
    count = len(error.problems)
    where = source.name if source else error.source_name
    lines = [_head("CompileError", f"{count} problem{'s' * (count > 1)} in {where}; nothing was run", color)]
    for problem in error.problems:
        at = f"line {problem.line}: " if problem.line else ""
        lines.append(f"  {_paint(at, _BOLD, color)}{problem.message}")
        if source and problem.line:
            text = source.line(problem.line)
            lines += _quote(text, problem.line, color, *_named_in(text, problem.message))
        lines += [f"    {line}" for line in (problem.hint or "").splitlines()]
    return lines


def _named_in(text: str, message: str) -> tuple[int | None, int | None]:
    """Find what a message quotes within a line: ``'sigm'`` in ``Step(blur, {"sigm": 2})``."""
    for name in re.findall(r"'([^']+)'", message):
        found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)
        if found:
            return found.start(), found.end()
    return None, None


def _syntax_error(error: CellError, source: Source | None, color: bool) -> list[str]:
    syntax = error.error
    lines = [_head(type(syntax).__name__, syntax.msg or "", color)]
    if source is not None and syntax.lineno:
        start = (syntax.offset or 1) - 1
        same_line = syntax.end_lineno in (None, syntax.lineno)
        end = (syntax.end_offset or 0) - 1 if same_line else None
        text = source.line(syntax.lineno)
        lines.append(f"  {source.name}, line {syntax.lineno}")
        lines += _quote(text, syntax.lineno, color, start, max(end if end is not None else len(text), start + 1))
        if text.lstrip().startswith(("%", "!")):
            lines.append("  The cell is ordinary Python: magics and shell commands go into a cell of their own.")
    return lines


def _foreign_error(error: BaseException, source: Source | None, names: Iterable[str], color: bool) -> list[str]:
    lines = [_head(type(error).__name__, str(error), color)]
    lines += _position_lines(error.__traceback__, source, color)
    if isinstance(error, NameError) and error.name and (near := nearest(error.name, {*names, *dir(builtins)})):
        lines.append(f"  Did you mean {near}?")
    return lines


def _position_lines(trace: TracebackType | None, source: Source | None, color: bool) -> list[str]:
    if source is None:
        return []
    positions = list(_positions(trace, source.filename))
    if not positions:
        return []
    lines = []
    for position in positions[-3:]:
        inside = f", in {position.function}" if position.function != "<module>" else ""
        lines.append(f"  {source.name}, line {position.line}{inside}")
        lines += _quote(source.line(position.line), position.line, color, position.start, position.end)
    return lines


def _positions(trace: TracebackType | None, filename: str) -> Iterator[_Position]:
    for frame in traceback.extract_tb(trace):
        if frame.filename == filename and frame.lineno:
            same_line = frame.end_lineno == frame.lineno
            text = linecache.getline(filename, frame.lineno)
            start, end = (_column(text, column) for column in (frame.colno, frame.end_colno if same_line else None))
            yield _Position(frame.lineno, start, end, frame.name)


def _column(text: str, offset: int | None) -> int | None:
    # Tracebacks count columns in bytes of UTF-8.
    return None if offset is None else len(text.encode()[:offset].decode(errors="ignore"))


def _quote(text: str, number: int, color: bool, start: int | None = None, end: int | None = None) -> list[str]:
    if not text.strip():
        return []
    text = text.rstrip()
    lead = len(text) - len(text.lstrip())
    start = lead if start is None else max(start, lead)
    end = len(text.rstrip(",")) if end is None else min(max(end, start + 1), max(len(text), start + 1))
    gutter = f"    {number:>3} | "
    caret = " " * (len(gutter) - 2) + "| " + " " * start + "^" * (end - start)
    return [_paint(gutter, _FAINT, color) + text, _paint(caret, _BOLD, color)]


def _head(kind: str, message: str, color: bool) -> str:
    return f"{_paint(f'{kind}:', _BOLD, color)} {message}"


def _paint(text: str, style: str, color: bool) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if color and text else text
