"""Bytecode in a form that depends on what the code does, not on its lines, docstrings or numbering."""

from __future__ import annotations

import dis
import inspect
import struct
import sys
import types
from typing import NamedTuple

_SHIFT = {"LOAD_GLOBAL": 1}
if sys.version_info >= (3, 12):
    _SHIFT |= {"LOAD_ATTR": 1, "LOAD_SUPER_ATTR": 2}
_NAME_SHIFT = {op: _SHIFT.get(dis.opname[op], 0) for op in dis.hasname}
_CONST = frozenset(dis.hasconst)
_GLOBAL = frozenset(dis.opmap[name] for name in ("LOAD_GLOBAL", "LOAD_NAME"))
_ATTRIBUTE = frozenset(dis.opmap[name] for name in ("LOAD_ATTR", "LOAD_METHOD") if name in dis.opmap)
_IMPORT, _IMPORT_FROM = dis.opmap["IMPORT_NAME"], dis.opmap["IMPORT_FROM"]
_SMALL_INT = dis.opmap.get("LOAD_SMALL_INT")
_STORE_NAME = dis.opmap["STORE_NAME"]
_EXTENDED = dis.EXTENDED_ARG
_CACHE = dis.opmap.get("CACHE")
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


def read(code: types.CodeType) -> Code:
    """Bring bytecode into a form that does not depend on docstrings, lines and the numbering of constants."""
    stream: list[int] = []
    names: dict[str, int] = {}
    constants: dict[int, int] = {}
    references: dict[Reference, None] = {}
    recent: list[object] = [None, None]
    base: Reference | None = None
    imported: Reference | None = None
    raw, all_names, all_constants = code.co_code, code.co_names, code.co_consts
    arg = 0
    skip_to = _class_documentation(code)
    for at in range(0, len(raw), 2):
        op = raw[at]
        arg = arg << 8 | raw[at + 1]
        if op == _EXTENDED:
            continue
        if op == _CACHE:
            arg = 0
            continue
        if at in skip_to:
            arg = 0
            continue
        chained = False
        if op in _CONST:
            stream += (op, constants.setdefault(arg, len(constants)))
            recent = [recent[1], all_constants[arg]]
        elif op in _NAME_SHIFT:
            shift = _NAME_SHIFT[op]
            name = all_names[arg >> shift]
            stream += (op, arg & ((1 << shift) - 1), names.setdefault(name, len(names)))
            if op in _ATTRIBUTE and base is not None:
                base = base._replace(path=(*base.path, name))
                chained = True
            else:
                if base is not None:
                    references[base] = None
                    base = None
                if op in _GLOBAL:
                    base = Reference(name, ())
                    chained = True
                elif op == _IMPORT:
                    level = recent[0] if isinstance(recent[0], int) else 0
                    imported = Reference(name, (), level)
                    if not recent[1]:
                        references[imported] = None
                elif op == _IMPORT_FROM and imported is not None:
                    references[imported._replace(path=(name,))] = None
        else:
            stream += (op, arg)
            if op == _SMALL_INT:
                recent = [recent[1], arg]
        if base is not None and not chained:
            references[base] = None
            base = None
        arg = 0
    if base is not None:
        references[base] = None
    return Code(
        struct.pack(f"<{len(stream)}I", *stream),
        tuple(names),
        tuple(all_constants[index] for index in constants),
        tuple(references),
    )


def _class_documentation(code: types.CodeType) -> frozenset[int]:
    """Find the instructions of a class's body that set its docstring or its line."""
    if not _NOT_CODE.intersection(code.co_names) or code.co_flags & inspect.CO_OPTIMIZED:
        return frozenset()
    found: set[int] = set()
    before: tuple[int, int] = (0, 0)
    for at in range(0, len(code.co_code), 2):
        op, arg = code.co_code[at], code.co_code[at + 1]
        if op == _STORE_NAME and arg < len(code.co_names) and code.co_names[arg] in _NOT_CODE and before[1] in _CONST:
            found |= {before[0], at}
        before = (at, op)
    return frozenset(found)
