"""Bytecode in a form that depends on what the code does, not on its lines, docstrings or numbering."""

from __future__ import annotations

import dis
import inspect
import struct
import sys
import types
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SHIFT = {"LOAD_GLOBAL": 1}
if sys.version_info >= (3, 12):
    _SHIFT |= {"LOAD_ATTR": 1, "LOAD_SUPER_ATTR": 2}
_NAME_SHIFT = {op: _SHIFT.get(dis.opname[op], 0) for op in dis.hasname}
_CONST = frozenset(dis.hasconst)
_GLOBAL = frozenset(dis.opmap[name] for name in ("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTE = dis.opmap["LOAD_ATTR"]
_METHOD = dis.opmap.get("LOAD_METHOD")
_IMPORT, _IMPORT_FROM = dis.opmap["IMPORT_NAME"], dis.opmap["IMPORT_FROM"]
_SMALL_INT = dis.opmap.get("LOAD_SMALL_INT")
_STORE_NAME = dis.opmap["STORE_NAME"]
_JUMPS = frozenset(dis.hasjrel)
_BACKWARD = frozenset(op for op in dis.hasjrel if "BACKWARD" in dis.opname[op])
_CACHE = dis.opmap.get("CACHE")
_SILENT = frozenset(dis.opmap[name] for name in ("CACHE", "NOP", "PUSH_NULL") if name in dis.opmap)
"""Instructions that do nothing that counts. Where a name is imported in the same cell, CPython calls its attributes as
functions (PUSH_NULL, LOAD_ATTR), else as methods (LOAD_METHOD); a moved cell must stay the same."""
_NOT_CODE = frozenset({"__doc__", "__firstlineno__"})


class Reference(NamedTuple):
    """What a piece of code takes from outside: a global, or an import, and the attributes asked of it."""

    name: str
    path: tuple[str, ...]
    level: int = -1
    """Of an import statement, its leading dots; -1: a global."""


class Code(NamedTuple):
    """What `read` makes of a code object."""

    instructions: bytes
    names: tuple[str, ...]
    constants: tuple[object, ...]
    references: tuple[Reference, ...]


class _Instruction(NamedTuple):
    start: int
    op: int
    arg: int
    end: int
    """Offset from which a jump counts."""


def read(code: types.CodeType) -> Code:
    """Bring bytecode into a form that does not depend on docstrings, lines, and the numbering of constants."""
    names: dict[str, int] = {}
    constants: dict[int, int] = {}
    instructions = list(_documented(code, _instructions(code.co_code)))
    places = _ordinals(instructions, len(code.co_code))
    stream: list[int] = []
    for _, op, arg, end in instructions:
        if op in _CONST:
            stream += (op, constants.setdefault(arg, len(constants)))
        elif op in _NAME_SHIFT:
            shift = _NAME_SHIFT[op]
            # Of its lowest bits only that of a super() without arguments says what is done.
            stream += (
                _ATTRIBUTE if op == _METHOD else op,
                arg & 2 if shift == 2 else 0,
                names.setdefault(code.co_names[arg >> shift], len(names)),
            )
        elif op in _JUMPS:
            stream += (op, places[(end - 2 * arg if op in _BACKWARD else end + 2 * arg) // 2])
        else:
            stream += (op, arg)
    for first, last, target, depth in _handlers(code.co_exceptiontable):
        stream += (places[first], places[last], places[target], depth)
    return Code(
        struct.pack(f"<{len(stream)}I", *stream),
        tuple(names),
        tuple(code.co_consts[index] for index in constants),
        tuple(dict.fromkeys(_references(code, instructions))),
    )


def _instructions(raw: bytes) -> Iterator[_Instruction]:
    arg, start, at = 0, 0, 0
    while at < len(raw):
        op = raw[at]
        arg = arg << 8 | raw[at + 1]
        at += 2
        if op == dis.EXTENDED_ARG:
            continue
        while at < len(raw) and raw[at] == _CACHE:
            at += 2
        if op not in _SILENT:
            yield _Instruction(start, op, arg, at)
        arg, start = 0, at


def _documented(code: types.CodeType, instructions: Iterable[_Instruction]) -> Iterator[_Instruction]:
    """Leave out the instructions of a class's body that set its docstring or its line."""
    if code.co_flags & inspect.CO_OPTIMIZED or not _NOT_CODE.intersection(code.co_names):
        yield from instructions
        return
    held: _Instruction | None = None
    for instruction in instructions:
        if held is not None and instruction.op == _STORE_NAME and code.co_names[instruction.arg] in _NOT_CODE:
            held = None
            continue
        if held is not None:
            yield held
        held = instruction if instruction.op in _CONST else None
        if held is None:
            yield instruction
    if held is not None:
        yield held


def _ordinals(instructions: list[_Instruction], size: int) -> list[int]:
    """Return, for each word of the code, the number of the first instruction that starts there or later."""
    places = [len(instructions)] * (size // 2 + 1)
    before = 0
    for ordinal, instruction in enumerate(instructions):
        for word in range(before, instruction.start // 2 + 1):
            places[word] = ordinal
        before = instruction.start // 2 + 1
    return places


def _handlers(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Read an exception table: first word, word after the last, word of the handler, depth of the stack and its flag.

    The format is told in CPython's ``Objects/exception_handling_notes.txt``.
    """
    numbers: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 63
        if not byte & 64:
            numbers.append(value)
            value = 0
    for first, length, target, depth in zip(*[iter(numbers)] * 4, strict=True):
        yield first, first + length, target, depth


def _references(code: types.CodeType, instructions: list[_Instruction]) -> Iterator[Reference]:
    base: Reference | None = None
    imported: Reference | None = None
    level: list[object] = [0, None]
    for _, op, arg, _ in instructions:
        if base is not None:
            if op in {_ATTRIBUTE, _METHOD}:
                base = base._replace(path=(*base.path, code.co_names[arg >> _NAME_SHIFT[op]]))
                continue
            yield base
            base = None
        if op in _GLOBAL:
            base = Reference(code.co_names[arg >> _NAME_SHIFT[op]], ())
        elif op in _CONST:
            level = [level[1], code.co_consts[arg]]
        elif op == _SMALL_INT:
            level = [level[1], arg]
        elif op == _IMPORT:
            imported = Reference(code.co_names[arg], (), level[0] if isinstance(level[0], int) else 0)
            if not level[1]:
                yield imported
        elif op == _IMPORT_FROM and imported is not None:
            yield imported._replace(path=(code.co_names[arg],))
    if base is not None:
        yield base
