"""What omero-py's generated classes say of OMERO's model: kinds, their attributes, collections and inverses."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import omero
import omero.clients
import omero.model

_ADD = re.compile(
    r"def add(\w+)\(self, target, current = None\):(?:(?!\bdef\b).)*?self\._(\w+)Seq\.append\( target \);"
    r"\n(?:\s*target\.set(\w+)\( self \))?",
    re.DOTALL,
)


class Collection(NamedTuple):
    """A collection of a kind: the children's kind, and their attribute that refers back."""

    child: str
    inverse: str


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]


def class_of(kind: str) -> Any:
    """Return the class of the objects of a concrete kind."""
    return getattr(omero.model, f"{kind}I")


def kind_of(value: Any) -> str:
    """Return the kind of a model object."""
    name: str = type(value).__name__
    return name.removesuffix("I")


def exists(kind: str) -> bool:
    """Tell whether the model has a kind, abstract ones too."""
    return isinstance(getattr(omero.model, kind, None), type)


def is_concrete(kind: str) -> bool:
    return hasattr(omero.model, f"{kind}I")


@cache
def root_of(kind: str) -> str:
    """Return the kind that shares its ids with this one: Annotation for MapAnnotation, Shape for Mask."""
    for base in reversed(getattr(omero.model, kind).__mro__):
        if issubclass(base, omero.model.IObject) and base is not omero.model.IObject:
            name: str = base.__name__
            return name
    raise ValueError(f"{kind} is no kind of OMERO's model")


@cache
def is_a(kind: str, other: str) -> bool:
    """Tell whether a kind is another, or derived from it."""
    return issubclass(getattr(omero.model, kind), getattr(omero.model, other))


@cache
def empty(kind: str) -> dict[str, Any]:
    """Return the attributes of a new object: their names with underscore, and what they hold."""
    return dict(vars(class_of(kind)()))


@cache
def collections(kind: str) -> dict[str, Collection]:
    """Return a kind's collections by attribute; abstract kinds have those of their first concrete one."""
    if not is_concrete(kind):
        for name in dir(omero.model):
            if name.endswith("I") and exists(name[:-1]) and name[:-1] != kind and is_a(name[:-1], kind):
                return collections(name[:-1])
        return {}
    module = sys.modules[f"omero_model_{kind}I"]
    source = Path(str(module.__file__)).read_text()
    found = {attribute: Collection(child, _lower(inverse)) for child, attribute, inverse in _ADD.findall(source)}
    return {name: one for name, one in found.items() if f"_{name}Seq" in empty(kind)}


@cache
def attributes(kind: str) -> frozenset[str]:
    """Return the names of a kind's own attributes, collections not among them."""
    skipped = {"_id", "_details", "_loaded", "_version"}
    return frozenset(
        name[1:]
        for name in empty(kind)
        if name not in skipped and not name.endswith(("Seq", "Loaded", "CountPerOwner"))
    )


@cache
def has_attribute(kind: str, name: str) -> bool:
    """Tell whether a kind, or any derived from it, has an attribute or collection."""
    if name in ("id", "details", "version"):
        return True
    for found in dir(omero.model):
        derived = found.endswith("I") and exists(found[:-1]) and is_a_safe(found[:-1], kind)
        if derived and (name in attributes(found[:-1]) or name in collections(found[:-1])):
            return True
    return False


def is_a_safe(kind: str, other: str) -> bool:
    """As `is_a`, for kinds that are no objects of the model."""
    one, base = getattr(omero.model, kind), getattr(omero.model, other)
    return isinstance(one, type) and isinstance(base, type) and issubclass(one, base)


@cache
def wrapper_of(kind: str, name: str) -> Any:
    """Return what makes an RType of an attribute's value."""
    return getattr(class_of(kind)._field_info, name).wrapper
