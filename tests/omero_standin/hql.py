"""Reads the part of HQL that OMERO's clients send, into a tree."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?)|(?P<string>'(?:[^']|'')*')|:(?P<parameter>\w+)"
    r"|(?P<word>[A-Za-z_]\w*(?:\s*\.\s*[A-Za-z_]\w*)*)|(?P<sign><>|!=|<=|>=|\|\||[=<>(),*+\-/]))"
)
_AGGREGATES = {"count", "sum", "min", "max", "avg"}
_RESERVED = {
    "select", "distinct", "from", "where", "order", "group", "by", "join", "left", "right", "inner", "outer", "fetch",
    "as", "with", "and", "or", "not", "in", "is", "null", "like", "between", "exists", "asc", "desc", "having", "on",
}  # fmt: skip


class HqlError(Exception):
    """A query that cannot be read."""


@dataclass
class Name:
    """An alias and the attributes along a path."""

    parts: tuple[str, ...]


@dataclass
class Parameter:
    name: str


@dataclass
class Constant:
    value: Any


@dataclass
class Call:
    name: str
    arguments: tuple[Any, ...]
    distinct: bool = False


@dataclass
class Operation:
    sign: str
    operands: tuple[Any, ...]


@dataclass
class Join:
    path: Name
    alias: str
    outer: bool
    fetch: bool
    condition: Any = None


@dataclass
class Query:
    """One select."""

    items: list[tuple[Any, str | None]] = field(default_factory=list)
    as_map: bool = False
    distinct: bool = False
    roots: list[tuple[str, str]] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    where: Any = None
    groups: list[Any] = field(default_factory=list)
    having: Any = None
    order: list[tuple[Any, bool]] = field(default_factory=list)


def parse(text: str) -> Query:
    """Read a query."""
    parser = _Parser(text)
    query = parser.query()
    parser.expect_end()
    return query


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[tuple[str, str]] = []
        self._at = 0
        self._anonymous = 0
        position = 0
        stripped = text.rstrip().rstrip(";")
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None:
                raise HqlError(f"unexpected {stripped[position : position + 20]!r} in: {text}")
            kind = str(match.lastgroup)
            value = match[kind]
            self._tokens.append((kind, re.sub(r"\s*\.\s*", ".", value) if kind == "word" else value))
            position = match.end()

    def _peek(self, ahead: int = 0) -> tuple[str, str]:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ("end", "")

    def _is(self, *words: str, ahead: int = 0) -> bool:
        kind, value = self._peek(ahead)
        return kind in ("word", "sign") and value.lower() in words

    def _take(self, *words: str) -> bool:
        if self._is(*words):
            self._at += 1
            return True
        return False

    def _need(self, word: str) -> None:
        if not self._take(word):
            raise HqlError(f"expected {word} before {self._peek()[1]!r} in: {self._text}")

    def _word(self) -> str:
        kind, value = self._peek()
        if kind != "word":
            raise HqlError(f"expected a name before {value!r} in: {self._text}")
        self._at += 1
        return value

    def expect_end(self) -> None:
        if self._peek()[0] != "end":
            raise HqlError(f"unexpected {self._peek()[1]!r} in: {self._text}")

    def query(self) -> Query:
        query = Query()
        if self._take("select"):
            query.distinct = self._take("distinct")
            if self._take("new"):
                self._need("map")
                self._need("(")
                query.as_map = True
                query.items = self._items()
                self._need(")")
            else:
                query.items = self._items()
        self._need("from")
        self._root(query)
        while True:
            if self._take(","):
                self._root(query)
            elif self._is("join", "left", "inner", "right"):
                query.joins.append(self._join())
            else:
                break
        if self._take("where"):
            query.where = self._or()
        if self._take("group"):
            self._need("by")
            query.groups = self._list()
        if self._take("having"):
            query.having = self._or()
        if self._take("order"):
            self._need("by")
            while True:
                key = self._sum()
                descending = self._take("desc")
                if not descending:
                    self._take("asc")
                query.order.append((key, descending))
                if not self._take(","):
                    break
        if not query.items:
            query.items = [(Name((query.roots[0][1],)), None)]
        return query

    def _items(self) -> list[tuple[Any, str | None]]:
        items = []
        while True:
            one = self._or()
            name = None
            if self._take("as") or (self._peek()[0] == "word" and self._peek()[1].lower() not in _RESERVED):
                name = self._word()
            items.append((one, name))
            if not self._take(","):
                return items

    def _list(self) -> list[Any]:
        items = [self._sum()]
        while self._take(","):
            items.append(self._sum())
        return items

    def _alias(self) -> str:
        self._take("as")
        if self._peek()[0] == "word" and self._peek()[1].lower() not in _RESERVED:
            return self._word()
        self._anonymous += 1
        return f"#{self._anonymous}"

    def _root(self, query: Query) -> None:
        entity = self._word().rsplit(".", 1)[-1]
        if entity.endswith("I") and entity[:-1] in ("Image", "Plate", "Well"):
            entity = entity[:-1]
        alias = self._alias()
        query.roots.append((entity, "this" if alias.startswith("#") else alias))

    def _join(self) -> Join:
        outer = self._take("left")
        self._take("inner")
        self._take("outer")
        self._need("join")
        fetch = self._take("fetch")
        path = Name(tuple(self._word().split(".")))
        alias = self._alias()
        condition = self._or() if self._take("with") else None
        return Join(path, alias, outer, fetch, condition)

    def _or(self) -> Any:
        left = self._and()
        while self._take("or"):
            left = Operation("or", (left, self._and()))
        return left

    def _and(self) -> Any:
        left = self._not()
        while self._take("and"):
            left = Operation("and", (left, self._not()))
        return left

    def _not(self) -> Any:
        if self._is("not") and not self._is("exists", ahead=1):
            self._at += 1
            return Operation("not", (self._not(),))
        return self._comparison()

    def _comparison(self) -> Any:
        if self._take("not"):
            return Operation("not", (self._comparison(),))
        if self._take("exists"):
            self._need("(")
            inner = self.query()
            self._need(")")
            return Operation("exists", (inner,))
        left = self._sum()
        negated = self._take("not")
        result: Any = None
        if self._take("in"):
            result = Operation("in", (left, self._in_what()))
        elif self._take("like"):
            result = Operation("like", (left, self._sum()))
        elif self._take("between"):
            low = self._sum()
            self._need("and")
            result = Operation("between", (left, low, self._sum()))
        elif self._take("is"):
            negated = self._take("not")
            self._need("null")
            result = Operation("null", (left,))
        elif self._is("=", "<>", "!=", "<", ">", "<=", ">="):
            sign = self._peek()[1]
            self._at += 1
            return Operation("<>" if sign == "!=" else sign, (left, self._sum()))
        else:
            return left
        return Operation("not", (result,)) if negated else result

    def _in_what(self) -> Any:
        if not self._take("("):
            return self._primary()
        if self._is("select", "from"):
            inner: Any = self.query()
        else:
            inner = Operation("list", tuple(self._list()))
        self._need(")")
        return inner

    def _sum(self) -> Any:
        left = self._product()
        while self._is("+", "-", "||"):
            sign = self._peek()[1]
            self._at += 1
            left = Operation(sign, (left, self._product()))
        return left

    def _product(self) -> Any:
        left = self._primary()
        while self._is("*", "/") and not self._is(")", ahead=1):
            sign = self._peek()[1]
            self._at += 1
            left = Operation(sign, (left, self._primary()))
        return left

    def _primary(self) -> Any:
        kind, value = self._peek()
        self._at += 1
        if kind == "number":
            return Constant(float(value) if "." in value else int(value))
        if kind == "string":
            return Constant(value[1:-1].replace("''", "'"))
        if kind == "parameter":
            return Parameter(value)
        if value == "*":
            return Constant("*")
        if value == "-":
            return Operation("-", (Constant(0), self._primary()))
        if value == "(":
            inner: Any = self.query() if self._is("select", "from") else self._or()
            self._need(")")
            return inner
        if kind != "word":
            raise HqlError(f"unexpected {value!r} in: {self._text}")
        if self._take("("):
            distinct = self._take("distinct")
            arguments = () if self._is(")") else tuple(self._list())
            self._need(")")
            return Call(value.lower(), arguments, distinct)
        if value.lower() in ("true", "false", "null"):
            return Constant({"true": True, "false": False}.get(value.lower()))
        return Name(tuple(value.split(".")))


def is_aggregate(node: Any) -> bool:
    """Tell whether an expression stands for all rows together."""
    if isinstance(node, Call):
        return node.name in _AGGREGATES or any(map(is_aggregate, node.arguments))
    return isinstance(node, Operation) and any(map(is_aggregate, node.operands))


def aliases(node: Any) -> set[str]:
    """Return the aliases that an expression needs; an inner query's own count, too."""
    if isinstance(node, Name):
        return {node.parts[0]}
    if isinstance(node, Call):
        return set().union(*map(aliases, node.arguments)) if node.arguments else set()
    if isinstance(node, Operation):
        return set().union(*map(aliases, node.operands)) if node.operands else set()
    if isinstance(node, Query):
        own = {alias for _, alias in node.roots} | {join.alias for join in node.joins}
        inner: set[str] = set()
        for part in [item for item, _ in node.items] + [node.where, *(join.path for join in node.joins)]:
            inner |= aliases(part)
        return inner - own - {"this"}
    return set()
