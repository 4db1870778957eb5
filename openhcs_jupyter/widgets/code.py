"""The text of a pipeline: its steps where they stand, changed in place, everything else left as the user wrote it."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import Any, NamedTuple

from openhcs_jupyter.errors import UsageError

STEPS = "pipeline_steps"
_MAKERS = ("Step", "FunctionStep")
_BETWEEN = (tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT)
EMPTY = f"%%openhcs run\n{STEPS} = [\n]\n"


class Span(NamedTuple):
    """A part of the text."""

    start: int
    end: int


class CallText(NamedTuple):
    """One function of a step, and its parameters as they are written."""

    function: str
    channel: str | None
    """The channel whose chain it is in; None where the step does the same to all."""
    params: dict[str, str]
    """The text of each value."""
    at: Span
    """The function."""
    params_at: Span | None
    """The dict of parameters."""
    is_nested: bool
    """It stands in a list or a dict, where parameters need a pair around them."""


class StepText(NamedTuple):
    """One entry of the list of steps."""

    at: Span
    code: str
    calls: tuple[CallText, ...]
    """Empty where the entry is not a plain `Step`."""
    options: dict[str, str]
    """Text of the keywords: ``channel``, ``inputs``, ``outputs``, ``save``, ..."""
    options_at: dict[str, Span]


class PipelineText:
    """A cell or file that assigns ``pipeline_steps``; a value, which each change makes anew.

    Parameters
    ----------
    text
        All of it; a first line with a magic is left alone.

    Raises
    ------
    UsageError
        If it is not Python, or assigns no plain list to ``pipeline_steps``; says in which line.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        lines = _python(text)
        self.python = "".join(lines)
        try:
            tree = ast.parse(self.python)
        except SyntaxError as error:
            raise UsageError(f"Line {error.lineno}: {error.msg}", "Mend the text, or undo the last change.") from None
        self._lines = [line.encode() for line in lines]
        self._starts = [0, *accumulate(len(line) for line in lines)]
        found = _steps_list(tree)
        if found is None:
            raise UsageError(f"The text assigns no list to {STEPS}", f"Write {STEPS} = [Step(...), ...].")
        self._list = self._span(found)
        self.steps = tuple(self._step(entry) for entry in found.elts)
        self.entries = tuple(found.elts)
        self.others = ast.Module([node for node in tree.body if getattr(node, "value", None) is not found], [])
        """Everything but the list of steps."""

    def set_params(self, step: int, call: int, params: Mapping[str, str]) -> PipelineText:
        """Give one function of a step these parameters, as texts by name."""
        told = self.steps[step].calls[call]
        written = "{" + ", ".join(f'"{name}": {value}' for name, value in params.items()) + "}" if params else ""
        if told.params_at is not None:
            if written:
                return self._spliced(told.params_at, written)
            if told.is_nested:
                return self._spliced(told.params_at, "{}")
            return self._spliced(Span(told.at.end, told.params_at.end), "")
        if not written:
            return self
        if told.is_nested:
            return self._spliced(told.at, f"({told.function}, {written})")
        return self._spliced(Span(told.at.end, told.at.end), f", {written}")

    def set_option(self, step: int, name: str, value: str | None) -> PipelineText:
        """Give a step a keyword, as text; None takes it away."""
        told = self.steps[step]
        at = told.options_at.get(name)
        if at is not None and value is not None:
            return self._spliced(at, f"{name}={value}")
        if at is not None:
            before = self.text.rindex(",", told.at.start, at.start)
            return self._spliced(Span(before, at.end), "")
        if value is None:
            return self
        inside = told.code.rstrip()[:-1].rstrip().rstrip(",")
        return self._spliced(told.at, f"{inside}, {name}={value})")

    def insert(self, step: int, code: str) -> PipelineText:
        """Put a step before another, or at the end."""
        if step < len(self.steps):
            at = self.steps[step].at.start
            return self._spliced(Span(at, at), f"{code},\n{self._indent(at)}")
        if self.steps:
            last = self.steps[-1].at
            return self._spliced(Span(last.end, last.end), f",\n{self._indent(last.start)}{code}")
        return self._spliced(Span(self._list.start + 1, self._list.end - 1), f"\n    {code},\n")

    def remove(self, step: int) -> PipelineText:
        """Take a step out, with its comma."""
        at = self.steps[step].at
        end = self._list.end - 1
        rest = re.compile(r"[ \t]*,[ \t]*(?:#[^\n]*)?\n?[ \t]*").match(self.text, at.end, end)
        if rest is not None:
            return self._spliced(Span(at.start, rest.end()), "" if rest.end() < end else self._closing(at.start))
        before = self.steps[step - 1].at.end if step else self._list.start + 1
        return self._spliced(Span(before, at.end), "")

    def move(self, step: int, to: int) -> PipelineText:
        """Move a step to another's place; the others keep their order."""
        codes = [told.code for told in self.steps]
        codes.insert(to, codes.pop(step))
        text = self.text
        for told, code in sorted(zip(self.steps, codes, strict=True), key=lambda pair: -pair[0].at.start):
            text = text[: told.at.start] + code + text[told.at.end :]
        return PipelineText(text)

    def line_of(self, step: int) -> int:
        """Return the line of a step, counted from 1."""
        return self.text.count("\n", 0, self.steps[step].at.start) + 1

    def _closing(self, start: int) -> str:
        """Return what keeps the closing bracket on a line of its own when the last step goes."""
        return "" if self.text[:start].rstrip(" \t").endswith("\n") else "\n"

    def _indent(self, at: int) -> str:
        begin = self.text.rfind("\n", 0, at) + 1
        lead = self.text[begin:at]
        return lead if not lead.strip() else "    "

    def _spliced(self, at: Span, code: str) -> PipelineText:
        return PipelineText(self.text[: at.start] + code + self.text[at.end :])

    def _offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + len(self._lines[line - 1][:column].decode())

    def _span(self, node: ast.expr | ast.keyword) -> Span:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return Span(self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset))

    def _code(self, node: ast.expr) -> str:
        at = self._span(node)
        return self.text[at.start : at.end]

    def _step(self, entry: ast.expr) -> StepText:
        at = self._span(entry)
        code = self.text[at.start : at.end]
        plain = isinstance(entry, ast.Call) and isinstance(entry.func, ast.Name) and entry.func.id in _MAKERS
        if not plain or not isinstance(entry, ast.Call) or not entry.args:
            return StepText(at, code, (), {}, {})
        named = {keyword.arg: keyword for keyword in entry.keywords if keyword.arg}
        params = entry.args[1] if len(entry.args) > 1 else None
        calls = tuple(self._calls(entry.args[0], params))
        options = {name: self._code(keyword.value) for name, keyword in named.items()}
        return StepText(at, code, calls, options, {name: self._span(keyword) for name, keyword in named.items()})

    def _calls(
        self, node: ast.expr, params: ast.expr | None, channel: str | None = None, *, is_nested: bool = False
    ) -> list[CallText]:
        if isinstance(node, ast.Dict):
            found = []
            for key, value in zip(node.keys, node.values, strict=True):
                name = str(key.value) if isinstance(key, ast.Constant) else None
                found += self._calls(value, None, name, is_nested=True)
            return found
        if isinstance(node, ast.List):
            return [call for one in node.elts for call in self._calls(one, None, channel, is_nested=True)]
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            return self._calls(node.elts[0], node.elts[1], channel, is_nested=True)
        if isinstance(node, ast.Name | ast.Attribute):
            written: dict[str, str] = {}
            if isinstance(params, ast.Dict):
                for key, value in zip(params.keys, params.values, strict=True):
                    if not isinstance(key, ast.Constant):
                        return []  # parameters that are put together are changed in the text only
                    written[str(key.value)] = self._code(value)
            elif params is not None:
                return []
            at = self._span(params) if params is not None else None
            return [CallText(self._code(node), channel, written, self._span(node), at, is_nested)]
        return []


def value_text(value: Any) -> str:
    """Return a parameter's value as text, numbers without the noise of their last digits."""
    if isinstance(value, float):
        return repr(float(f"{value:.6g}"))
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def step_text(function: str, params: Mapping[str, Any] | None = None, options: Mapping[str, str] | None = None) -> str:
    """Return the text of a step."""
    parts = [function]
    if params:
        parts.append("{" + ", ".join(f'"{name}": {value_text(value)}' for name, value in params.items()) + "}")
    parts += [f"{name}={value}" for name, value in (options or {}).items()]
    return f"Step({', '.join(parts)})"


def _python(text: str) -> list[str]:
    """Return the text's lines, those of magics as comments of the same length, so that positions are the text's."""
    lines = list(io.StringIO(text, newline=""))  # as Python divides them
    while (number := _magic_line(lines)) is not None:
        goes_on = True
        while goes_on and number < len(lines):
            line = lines[number]
            code = line.lstrip(" \t")
            goes_on = line.rstrip("\r\n").endswith("\\") and not code.startswith("%%")
            lines[number] = line[: len(line) - len(code)] + ("#" + code[1:] if code.strip("\r\n") else code)
            number += 1
    return lines


def _magic_line(lines: Sequence[str]) -> int | None:
    """Find the first line that begins a statement with ``%`` or ``!``: others may within strings and brackets."""
    begins = True
    # Beyond the first thing that is not Python there may be no more tokens; it may be a magic's.
    with suppress(tokenize.TokenError, SyntaxError):
        for token in tokenize.generate_tokens(iter(lines).__next__):
            if token.type in _BETWEEN:
                begins = begins or token.type == tokenize.NEWLINE
            elif begins and token.string in ("%", "%=", "!", "!="):
                return token.start[0] - 1
            elif token.string.strip():
                begins = False
    return None


def _steps_list(tree: ast.Module) -> ast.List | None:
    found = None
    for node in tree.body:
        targets: Sequence[ast.expr] = ()
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == STEPS for target in targets):
            value = getattr(node, "value", None)
            found = value if isinstance(value, ast.List) else None
    return found
