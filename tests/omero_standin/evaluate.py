"""Answers queries from the store, for one user."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.omero_standin import schema
from tests.omero_standin.graphs import Fetched
from tests.omero_standin.hql import (
    Call,
    Constant,
    HqlError,
    Join,
    Name,
    Operation,
    Parameter,
    Query,
    aliases,
    is_aggregate,
)
from tests.omero_standin.store import Pairs, Quantity, Record, Ref, Store

Row = dict[str, Any]


@dataclass(frozen=True)
class _Part:
    """What lies between a record and its values: its details, an event, a quantity."""

    of: Record
    name: str


class Evaluator:
    """Evaluates one query.

    Parameters
    ----------
    store
        All records.
    parameters
        Values by name.
    sees
        Tells whether the user may read a record.
    """

    def __init__(self, store: Store, parameters: dict[str, Any], sees: Callable[[Record], bool]) -> None:
        self._store = store
        self._parameters = parameters
        self._sees = sees
        self._sets: dict[str, set[Any]] = {}

    def rows(self, query: Query, outer: Row | None = None) -> list[tuple[Any, ...]]:
        """Return what is selected, a tuple a row."""
        return [values for _, values in self._select(query, outer or {})]

    def objects(self, query: Query, limit: int | None = None, offset: int = 0) -> tuple[list[Record], Fetched]:
        """Return the records that are selected, each once, and what is fetched with them."""
        found: dict[tuple[str, int], Record] = {}
        kept: list[tuple[Row, Record]] = []
        for row, values in self._select(query, {}):
            if isinstance(values[0], Record):
                found.setdefault(values[0].key, values[0])
                kept.append((row, values[0]))
            elif values[0] is not None:
                raise HqlError("the query selects no objects")
        wanted = list(found.values())[offset : None if limit is None else offset + limit]
        keys = {record.key for record in wanted}
        fetched: Fetched = {}
        for row, record in kept:
            if record.key in keys:
                for join in query.joins:
                    if join.fetch:
                        self._fetch(join, row, fetched)
        return wanted, fetched

    def _fetch(self, join: Join, row: Row, fetched: Fetched) -> None:
        parent: Any = row.get(join.path.parts[0])
        for name in join.path.parts[1:-1]:
            parent = self._attribute(parent, name)
        name = join.path.parts[-1]
        if isinstance(parent, _Part):
            parent, name = parent.of, f"{parent.name}.{name}"
        if not isinstance(parent, Record):
            return
        children = fetched.setdefault(parent.key, {}).setdefault(name, [])
        child = row.get(join.alias)
        if isinstance(child, Record) and child not in children:
            children.append(child)

    def _select(self, query: Query, outer: Row) -> list[tuple[Row, tuple[Any, ...]]]:
        rows = list(self._matching(query, outer))
        items = [item for item, _ in query.items]
        if query.groups or any(map(is_aggregate, items)):
            return self._grouped(query, rows, items)
        for key, descending in reversed(query.order):
            rows.sort(key=lambda row, key=key: _sort_key(self._value(key, row)), reverse=descending)
        found = [(row, tuple(self._value(item, row) for item in items)) for row in rows]
        if query.distinct:
            once: dict[Any, tuple[Row, tuple[Any, ...]]] = {}
            for row, values in found:
                once.setdefault(tuple(map(_identity, values)), (row, values))
            found = list(once.values())
        return found

    def _grouped(self, query: Query, rows: list[Row], items: list[Any]) -> list[tuple[Row, tuple[Any, ...]]]:
        groups: dict[Any, list[Row]] = {} if query.groups else {(): rows}
        for row in rows if query.groups else ():
            key = tuple(_identity(self._value(one, row)) for one in query.groups)
            groups.setdefault(key, []).append(row)
        found = [
            (group[0] if group else {}, tuple(self._aggregate(item, group) for item in items))
            for group in groups.values()
            if query.having is None or self._aggregate(query.having, group)
        ]
        for key, descending in reversed(query.order):
            found.sort(key=lambda one, key=key: _sort_key(self._value(key, one[0])), reverse=descending)
        return found

    def _aggregate(self, item: Any, rows: list[Row]) -> Any:
        if isinstance(item, Operation):
            return self._operate(item.sign, [self._aggregate(one, rows) for one in item.operands])
        if not isinstance(item, Call) or not is_aggregate(item):
            return self._value(item, rows[0]) if rows else None
        argument = item.arguments[0]
        if isinstance(argument, Constant) and argument.value == "*":
            return len(rows)
        values = [value for row in rows if (value := self._value(argument, row)) is not None]
        if item.distinct:
            values = list({_identity(value): value for value in values}.values())
        if item.name == "count":
            return len(values)
        if not values:
            return None
        if item.name == "avg":
            return sum(values) / len(values)
        return {"sum": sum, "min": min, "max": max}[item.name](values)  # type: ignore[operator]  # one of the table

    def _matching(self, query: Query, outer: Row) -> Iterator[Row]:
        """Iterate over the rows of a query; conditions are tried as soon as what they need is known."""
        for entity, _ in query.roots:
            if not schema.exists(entity):
                raise HqlError(f"{entity} is not mapped")
        names = {alias for _, alias in query.roots} | {join.alias for join in query.joins}
        self._check(query)
        conditions = [(one, aliases(one) & names) for one in _conjuncts(query.where)]
        if any(alias == "this" for _, alias in query.roots):
            conditions = [(one, {"this"}) for one, _ in conditions]
        sources: list[Any] = [*query.roots, *query.joins]

        def descend(level: int, row: Row, known: set[str], left: list[tuple[Any, set[str]]]) -> Iterator[Row]:
            ready = [one for one, needed in left if needed <= known]
            if not all(self._value(one, row) for one in ready):
                return
            if level == len(sources):
                yield row
                return
            rest = [(one, needed) for one, needed in left if not needed <= known]
            source = sources[level]
            if isinstance(source, Join):
                for child, index in self._joined(source, row):
                    more = {**row, source.alias: child, f"#{source.alias}": index}
                    yield from descend(level + 1, more, known | {source.alias}, rest)
                return
            entity, alias = source
            for record in self._from(entity, alias, rest, row):
                yield from descend(level + 1, {**row, alias: record}, known | {alias}, rest)

        yield from descend(0, dict(outer), set(outer), conditions)

    def _from(self, entity: str, alias: str, conditions: list[tuple[Any, set[str]]], row: Row) -> Iterator[Record]:
        """Iterate over the records of a kind; by their ids, or by what they refer to, where a condition names that."""
        for condition, _ in conditions:
            if not (isinstance(condition, Operation) and condition.sign in ("=", "in")):
                continue
            left, right = condition.operands
            if not isinstance(left, Name) or left.parts[0] not in (alias, "id") or isinstance(right, Query):
                continue
            if aliases(right) - set(row):
                continue
            parts = left.parts[1:] if left.parts[0] == alias else left.parts
            values = self._members(right, row) if condition.sign == "in" else {self._value(right, row)}
            if parts == ("id",):
                found = (
                    self._store.get(entity, number) for number in sorted(values, key=_sort_key) if number is not None
                )
                yield from (record for record in found if record is not None and self._sees(record))
                return
            if len(parts) == 2 and parts[1] == "id" and condition.sign == "=":
                referring = self._store.with_reference(entity, parts[0], next(iter(values)))
                if referring is not None:
                    yield from filter(self._sees, referring)
                    return
        yield from (record for record in self._store.all(entity) if self._sees(record))

    def _joined(self, join: Join, row: Row) -> Iterator[tuple[Record | None, int | None]]:
        value: Any = row.get(join.path.parts[0])
        for name in join.path.parts[1:]:
            value = self._attribute(value, name)
        several = isinstance(value, list)
        children: list[Any] = value if isinstance(value, list) else [value]
        some = False
        for index, child in enumerate(children):
            if child is None or (isinstance(child, Record) and not self._sees(child)):
                continue
            if join.condition is not None and not self._value(join.condition, {**row, join.alias: child}):
                continue
            some = True
            yield child, index if several else None
        if join.outer and not some:
            yield None, None

    def _attribute(self, value: Any, name: str) -> Any:
        if value is None:
            return None
        if isinstance(value, Quantity):
            return {"value": value.value, "unit": value.unit}[name]
        if isinstance(value, _Part):
            return self._of_part(value, name)
        if not isinstance(value, Record):
            raise HqlError(f"{name} is asked of {value!r}")
        if name == "id":
            return value.id
        if name == "version":
            return 0
        if name == "details":
            return _Part(value, "details")
        collection = schema.collections(value.kind).get(name)
        if collection is not None:
            return self._store.children(value.key, collection)
        found = value.values.get(name)
        return self._store.find(found) if isinstance(found, Ref) else found

    def _of_part(self, part: _Part, name: str) -> Any:
        record = part.of
        if part.name == "details":
            if name == "owner":
                return self._store.get("Experimenter", record.owner)
            if name == "group":
                return self._store.get("ExperimenterGroup", record.group)
            if name == "externalInfo":
                return self._store.find(record.external)
            return _Part(record, name)
        if name == "time":
            return int(record.made * 1000)
        return record.id if name == "id" else None

    def _check(self, query: Query) -> None:
        """Refuse attributes that the model does not have, as Hibernate does."""
        kinds = {alias: entity for entity, alias in query.roots}
        for join in query.joins:
            alias, *names = join.path.parts
            kind = kinds.get(alias)
            if kind is not None and names and not schema.has_attribute(kind, names[0]):
                raise HqlError(f"could not resolve property: {names[0]} of: ome.model.{kind}")
            collection = schema.collections(kind).get(names[0]) if kind and len(names) == 1 else None
            if collection is not None:
                kinds[join.alias] = collection.child
        for item in [one for one, _ in query.items] + _conjuncts(query.where):
            for name in _names(item):
                kind = kinds.get(name.parts[0])
                if kind is not None and len(name.parts) > 1 and not schema.has_attribute(kind, name.parts[1]):
                    raise HqlError(f"could not resolve property: {name.parts[1]} of: ome.model.{kind}")

    def _value(self, node: Any, row: Row) -> Any:
        if isinstance(node, Name):
            return self._path(node, row)
        if isinstance(node, Constant):
            return node.value
        if isinstance(node, Parameter):
            if node.name not in self._parameters:
                raise HqlError(f"Not all named parameters have been set: [{node.name}]")
            return self._parameters[node.name]
        if isinstance(node, Call):
            return self._call(node, row)
        if isinstance(node, Query):
            found = self.rows(node, row)
            return found[0][0] if found else None
        return self._operation(node, row)

    def _path(self, name: Name, row: Row) -> Any:
        first, *rest = name.parts
        if first in row:
            value: Any = row[first]
        elif "this" in row:
            value, rest = row["this"], list(name.parts)
        else:
            raise HqlError(f"{first} is not known here")
        for part in rest:
            value = self._attribute(value, part)
        if isinstance(value, Pairs):
            return value.pairs
        return value

    def _call(self, call: Call, row: Row) -> Any:
        if call.name in ("index", "minindex", "maxindex"):
            alias = call.arguments[0].parts[0]
            return row.get(f"#{alias}")
        values = [self._value(argument, row) for argument in call.arguments]
        if call.name in ("lower", "upper"):
            return None if values[0] is None else getattr(str(values[0]), call.name)()
        if call.name == "size":
            return len(values[0])
        if call.name == "coalesce":
            return next((value for value in values if value is not None), None)
        if call.name in ("str", "length"):
            return {"str": str, "length": len}[call.name](values[0])  # type: ignore[operator]  # one of the table
        raise HqlError(f"the function {call.name} is not known")

    def _operation(self, node: Operation, row: Row) -> Any:
        sign, operands = node.sign, node.operands
        if sign == "and":
            return all(self._value(one, row) for one in operands)
        if sign == "or":
            return any(self._value(one, row) for one in operands)
        if sign == "exists":
            return bool(self.rows(operands[0], row))
        if sign == "in":
            return _identity(self._value(operands[0], row)) in self._members(operands[1], row)
        if sign == "list":
            return [self._value(one, row) for one in operands]
        return self._operate(sign, [self._value(one, row) for one in operands])

    def _operate(self, sign: str, values: list[Any]) -> Any:
        if sign == "not":
            return not values[0]
        if sign == "null":
            return values[0] is None
        if sign in ("and", "or"):
            return all(values) if sign == "and" else any(values)
        if any(value is None for value in values):
            return None
        values = [_identity(value) for value in values]
        left, right = values[0], values[1]
        if sign == "like":
            pattern = re.escape(str(right)).replace("%", ".*").replace("_", ".")
            return re.fullmatch(pattern, str(left), re.DOTALL) is not None
        if sign == "between":
            return left <= right <= values[2]
        if sign == "||":
            return f"{left}{right}"
        return {
            "=": lambda: left == right,
            "<>": lambda: left != right,
            "<": lambda: left < right,
            ">": lambda: left > right,
            "<=": lambda: left <= right,
            ">=": lambda: left >= right,
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "/": lambda: left / right,
        }[sign]()

    def _members(self, node: Any, row: Row) -> set[Any]:
        """Return what stands on the right of an ``in``; kept where it is the same for all rows."""
        if isinstance(node, Operation) and node.sign == "list" and len(node.operands) == 1:
            node = node.operands[0]
        if isinstance(node, Parameter):
            if node.name not in self._sets:
                value = self._value(node, row)
                self._sets[node.name] = {_identity(one) for one in value} if isinstance(value, list) else {value}
            return self._sets[node.name]
        if isinstance(node, Query):
            return {_identity(values[0]) for values in self.rows(node, row)}
        value = self._value(node, row)
        return {_identity(one) for one in value} if isinstance(value, list) else {_identity(value)}


def _conjuncts(node: Any) -> list[Any]:
    if node is None:
        return []
    if isinstance(node, Operation) and node.sign == "and":
        return [one for operand in node.operands for one in _conjuncts(operand)]
    return [node]


def _names(node: Any) -> Iterator[Name]:
    if isinstance(node, Name):
        yield node
    elif isinstance(node, Call):
        for argument in node.arguments:
            yield from _names(argument)
    elif isinstance(node, Operation):
        for operand in node.operands:
            yield from _names(operand)


def _identity(value: Any) -> Any:
    if isinstance(value, Record):
        return value.id
    if isinstance(value, Quantity):
        return value.value
    return tuple(value) if isinstance(value, list) else value


def _sort_key(value: Any) -> tuple[bool, Any]:
    value = _identity(value)
    return (value is not None, value if value is not None else 0)
