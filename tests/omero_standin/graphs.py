"""Between OMERO's model objects and the store's records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import omero
import omero.model
from omero.rtypes import rlong, rtime, unwrap

from tests.omero_standin import schema
from tests.omero_standin.store import Pairs, Quantity, Record, Ref, Store

Fetched = dict[tuple[str, int], dict[str, list[Record]]]
"""By record: the attributes that a query fetches, and what it found there."""


class Permissions:
    """What somebody may do with records; filled in by the session."""

    def on(self, record: Record) -> omero.model.PermissionsI:
        raise NotImplementedError


class Loader:
    """Makes model objects of records, only as deep as asked."""

    def __init__(self, store: Store, permissions: Permissions) -> None:
        self._store = store
        self._permissions = permissions
        self._made: dict[tuple[str, int], Any] = {}

    def load(self, record: Record, fetched: Fetched | None = None) -> Any:
        """Make an object of a record, with what is fetched below it."""
        fetched = fetched or {}
        if record.key in self._made:
            return self._made[record.key]
        one = schema.class_of(record.kind)()
        self._made[record.key] = one
        one._id = rlong(record.id)
        one._loaded = True
        for name in schema.attributes(record.kind):
            setattr(one, f"_{name}", self._value(record, name, fetched))
        for name in schema.collections(record.kind):
            children = fetched.get(record.key, {}).get(name)
            setattr(one, f"_{name}Loaded", children is not None)
            setattr(one, f"_{name}Seq", [self.load(child, fetched) for child in children or ()])
        if hasattr(one, "_details"):
            one._details = self._details(record, fetched)
        return one

    def _value(self, record: Record, name: str, fetched: Fetched) -> Any:
        value = record.values.get(name)
        if value is None:
            return None
        if isinstance(value, Ref):
            target = self._store.find(value)
            if target is not None and name in fetched.get(record.key, {}):
                return self.load(target, fetched)
            return proxy(target.ref if target else value)
        if isinstance(value, Quantity):
            return _quantity(value)
        if isinstance(value, Pairs):
            return [omero.model.NamedValue(*pair) for pair in value.pairs]
        if isinstance(value, bytes | list):
            return value
        return schema.wrapper_of(record.kind, name)(value)

    def _details(self, record: Record, fetched: Fetched) -> Any:
        details = omero.model.DetailsI()
        wanted = fetched.get(record.key, {})
        owner, group = self._store.get("Experimenter", record.owner), self._store.get("ExperimenterGroup", record.group)
        if owner is not None:
            details._owner = self.load(owner, fetched) if "details.owner" in wanted else proxy(owner.ref)
        if group is not None:
            details._group = self.load(group, fetched) if "details.group" in wanted else proxy(group.ref)
        event = omero.model.EventI(record.id, True)
        event._time = rtime(int(record.made * 1000))
        details._creationEvent = event
        details._updateEvent = event
        details._permissions = self._permissions.on(record)
        external = self._store.find(record.external)
        if external is not None:
            fully = "details.externalInfo" in wanted
            details._externalInfo = self.load(external, fetched) if fully else proxy(external.ref)
        return details


def proxy(ref: Ref) -> Any:
    """Make an object that is not loaded."""
    return schema.class_of(ref.kind)(ref.id, False)


def _quantity(value: Quantity) -> Any:
    made = getattr(omero.model, f"{value.kind}I")()
    made._value = value.value
    made._unit = getattr(getattr(omero.model.enums, f"Units{value.kind}"), value.unit)
    return made


class Saver:
    """Puts graphs of model objects into the store, and their ids into the graphs."""

    def __init__(self, store: Store, owner: int, group: int, check: Any) -> None:
        self._store = store
        self._owner = owner
        self._group = group
        self._check = check
        self._seen: dict[int, Ref] = {}
        self._kept: list[Any] = []

    def save(self, one: Any) -> Ref:
        """Save an object with everything loaded that hangs on it."""
        kind = schema.kind_of(one)
        number = unwrap(one._id)
        if id(one) in self._seen:
            return self._seen[id(one)]
        if not one._loaded:
            found = self._store.get(kind, number)
            if found is None:
                raise omero.ValidationException(None, None, f"No {kind} with id {number}")
            return found.ref
        self._kept.append(one)
        if _is_enumeration(kind):
            number = self._same(kind, one) or number
            if number is not None:
                self._seen[id(one)] = Ref(kind, number)
                return Ref(kind, number)
        if number is None:
            number = self._store.new_id(kind)
        ref = Ref(kind, number)
        self._seen[id(one)] = ref
        old = self._store.get(kind, number)
        if old is not None and kind not in _SHARED:
            self._check(old)
        values = dict(old.values) if old else {}
        for name in schema.attributes(kind):
            values[name] = self._value(getattr(one, f"_{name}"), values.get(name))
        record = Record(kind, number, values, *self._belongs(kind, old))
        if old is not None:
            record.made, record.external = old.made, old.external
        details = getattr(one, "_details", None)
        external = getattr(details, "_externalInfo", None)
        if external is not None:
            record.external = self.save(external)
        self._store.put(record)
        one._id = rlong(number)
        for name, collection in schema.collections(kind).items():
            for child in getattr(one, f"_{name}Seq") if getattr(one, f"_{name}Loaded") else ():
                if child is not None and child._loaded:
                    setattr(child, f"_{collection.inverse}", one)
                    self.save(child)
        return ref

    def _belongs(self, kind: str, old: Record | None) -> tuple[int, int]:
        if old is not None:
            return old.owner, old.group
        return (0, 0) if kind in _SHARED else (self._owner, self._group)

    def _same(self, kind: str, one: Any) -> int | None:
        """Return the id of an enumeration's value that is there already."""
        wanted = unwrap(one._value)
        return next((record.id for record in self._store.all(kind) if record.values.get("value") == wanted), None)

    def _value(self, value: Any, old: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, omero.model.IObject):
            return self.save(value)
        if hasattr(value, "_unit") and hasattr(value, "_value"):
            return Quantity(schema.kind_of(value), float(value._value), str(value._unit))
        if isinstance(value, bytes):
            return value
        if isinstance(value, Iterable) and not isinstance(value, str):
            items = list(value)
            if not items or isinstance(items[0], omero.model.NamedValue):
                return Pairs(tuple((item.name, item.value) for item in items))
            return items if not isinstance(items[0], int) else bytes(item % 256 for item in items)
        return unwrap(value)


def _is_enumeration(kind: str) -> bool:
    return set(schema.attributes(kind)) == {"value"}


_SHARED = {"Experimenter", "ExperimenterGroup", "GroupExperimenterMap"}
