"""The stand-in's database: records of OMERO's model, kept in a log that survives a kill."""

from __future__ import annotations

import pickle
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.omero_standin import schema


class Ref(NamedTuple):
    """Names a record."""

    kind: str
    id: int

    @property
    def key(self) -> tuple[str, int]:
        return schema.root_of(self.kind), self.id


class Quantity(NamedTuple):
    """A value with a unit, such as a Length."""

    kind: str
    value: float
    unit: str


class Pairs(NamedTuple):
    """Named values, in order."""

    pairs: tuple[tuple[str, str], ...]


@dataclass
class Record:
    """One object of the model."""

    kind: str
    id: int
    values: dict[str, Any]
    owner: int = 0
    group: int = 0
    made: float = field(default_factory=time.time)
    external: Ref | None = None

    @property
    def ref(self) -> Ref:
        return Ref(self.kind, self.id)

    @property
    def key(self) -> tuple[str, int]:
        return schema.root_of(self.kind), self.id


Key = tuple[str, int]


class Store:
    """All records; every change is one entry of the log."""

    def __init__(self, log: Path) -> None:
        self.lock = threading.RLock()
        self._records: dict[str, dict[int, Record]] = defaultdict(dict)
        self._children: dict[tuple[str, str, Key], dict[int, None]] = defaultdict(dict)
        self._targets: dict[tuple[str, str], set[str]] = defaultdict(set)
        """By kind and attribute: the kinds to which it refers."""
        self._referring: dict[Key, set[tuple[str, str]]] = defaultdict(set)
        """By record: the kinds and attributes that refer to it, or did."""
        self._last: dict[str, int] = defaultdict(int)
        self._pending: list[tuple[str, Any]] = []
        self._load(log)
        self._log = log.open("ab")

    def _load(self, log: Path) -> None:
        if not log.exists():
            return
        with log.open("rb") as file:
            whole = 0
            while True:
                try:
                    entries = pickle.load(file)
                except (EOFError, pickle.UnpicklingError):
                    break
                whole = file.tell()
                for what, value in entries:
                    if what == "put":
                        self._put(value)
                    else:
                        self._drop(value)
        with log.open("r+b") as file:
            file.truncate(whole)

    def commit(self) -> None:
        """Write what changed since the last commit, all or nothing."""
        if self._pending:
            self._log.write(pickle.dumps(self._pending))
            self._log.flush()
            self._pending = []

    def close(self) -> None:
        """Close the log."""
        self._log.close()

    def new_id(self, kind: str) -> int:
        root = schema.root_of(kind)
        self._last[root] += 1
        return self._last[root]

    def put(self, record: Record) -> Record:
        """Add a record, or replace the one with its id."""
        self._put(record)
        self._pending.append(("put", record))
        return record

    def add(self, kind: str, values: dict[str, Any], owner: int = 0, group: int = 0) -> Record:
        """Make a record with a new id."""
        return self.put(Record(kind, self.new_id(kind), values, owner, group))

    def drop(self, key: Key) -> None:
        self._drop(key)
        self._pending.append(("drop", key))

    def get(self, kind: str, number: int) -> Record | None:
        record = self._records[schema.root_of(kind)].get(number)
        return record if record is not None and schema.is_a(record.kind, kind) else None

    def find(self, ref: Ref | None) -> Record | None:
        return None if ref is None else self._records[schema.root_of(ref.kind)].get(ref.id)

    def all(self, kind: str) -> Iterator[Record]:
        """Iterate over the records of a kind and those derived from it."""
        for root, records in list(self._records.items()):
            if schema.is_a(root, kind) or schema.is_a(kind, root):
                yield from (record for record in list(records.values()) if schema.is_a(record.kind, kind))

    def children(self, key: Key, collection: schema.Collection) -> list[Record]:
        """List a collection, in the order in which it was made."""
        root = schema.root_of(collection.child)
        records = self._records[root]
        found = self._children.get((root, collection.inverse, key), {})
        return [records[number] for number in found if schema.is_a(records[number].kind, collection.child)]

    def with_reference(self, kind: str, name: str, number: int) -> list[Record] | None:
        """List the records of a kind whose attribute refers to an id; None where it refers to nothing at all."""
        root = schema.root_of(kind)
        targets = self._targets.get((root, name))
        if targets is None:
            return None
        found = [one for target in targets for one in self._children.get((root, name, (target, number)), {})]
        return [record for one in sorted(found) if schema.is_a((record := self._records[root][one]).kind, kind)]

    def referring(self, key: Key) -> Iterator[tuple[Record, str]]:
        """Iterate over the records that refer to one, and the attribute by which they do."""
        for root, name in sorted(self._referring.get(key, ())):
            for number in list(self._children.get((root, name, key), ())):
                yield self._records[root][number], name

    def _put(self, record: Record) -> None:
        root = schema.root_of(record.kind)
        self._last[root] = max(self._last[root], record.id)
        old = self._records[root].get(record.id)
        kept: set[tuple[str, str, Key]] = set()
        for name, value in record.values.items():
            if isinstance(value, Ref):
                place = (root, name, value.key)
                kept.add(place)
                self._targets[root, name].add(value.key[0])
                self._referring[value.key].add((root, name))
                self._children[place][record.id] = None
        if old is not None:
            self._forget(old, kept)
        record._places = kept  # type: ignore[attr-defined]  # the record takes attributes
        self._records[root][record.id] = record

    def _drop(self, key: Key) -> None:
        record = self._records[key[0]].pop(key[1], None)
        if record is not None:
            self._forget(record, set())

    def _forget(self, record: Record, kept: set[tuple[str, str, Key]]) -> None:
        for place in getattr(record, "_places", set()) - kept:
            self._children[place].pop(record.id, None)
            if not self._children[place]:
                del self._children[place]
