"""Each query that this package sends: its paths exist in OMERO's model, and other clients use the same constructs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

import ezomero
import omero.gateway
import omero.model
import omero.model.enums

from openhcs_jupyter.repository.omero import markers, queries
from openhcs_jupyter.repository.omero.broker import gate
from tests.omero_standin import hql, schema

pytestmark = pytest.mark.filterwarnings("ignore")
_FIELD = re.compile(r"\('_(\w+)', \(\), (?:_M_omero(?:\.model|\.sys)?|IcePy)\._t_(\w+)")
_KINDS = ("Plate", "Dataset", "Image")


def strings() -> Iterator[tuple[str, str]]:
    """Iterate over all our queries by name, with all kinds that are put into them."""
    for module in (queries, gate):
        for name, value in vars(module).items():
            if name.startswith("_"):
                continue
            for key, text in value.items() if isinstance(value, dict) else [("", value)]:
                if not isinstance(text, str) or not text.startswith("select "):
                    continue
                if "{attribute}" in text:
                    for kind, attribute in (*markers._ATTRIBUTES.items(), ("OriginalFile", "path")):
                        yield f"{name} {kind}", text.format(kind=kind, attribute=attribute)
                elif "{kind}" in text:
                    for kind in _KINDS:
                        yield f"{name} {kind}", text.format(kind=kind)
                else:
                    yield f"{name} {key}".strip(), text


@cache
def types_of(kind: str) -> dict[str, str]:
    """Return the types of a kind's fields, from the classes that Ice generated from the model."""
    found: dict[str, str] = {}
    for base in reversed(getattr(omero.model, kind).__mro__):
        module = sys.modules.get(f"omero_model_{base.__name__}_ice")
        if module is not None:
            text = Path(str(module.__file__)).read_text()
            start = text.find(f"_t_{base.__name__} = IcePy.defineClass(")
            found |= dict(_FIELD.findall(text[start : text.find("\n    ))", start)]))
    return found


def step(kind: str, name: str) -> str:
    """Return the kind to which an attribute leads; a plain value is ``value``."""
    if name == "id":
        return "value"
    if name == "details" and kind != "Details":
        return "Details"
    types = types_of(kind)
    if f"{name}Seq" in types:
        return schema.collections(kind)[name].child
    if name not in types:
        raise AssertionError(f"{kind} has no {name}")
    leads = types[name]
    return leads if isinstance(getattr(omero.model, leads, None), type) else "value"


def names_in(node: Any) -> Iterator[hql.Name]:
    if isinstance(node, hql.Name):
        yield node
    for part in (*getattr(node, "arguments", ()), *getattr(node, "operands", ())):
        yield from names_in(part)


def follow(kinds: dict[str, str], name: hql.Name) -> str:
    kind = kinds[name.parts[0]]
    for part in name.parts[1:]:
        assert kind != "value", f"{'.'.join(name.parts)} goes beyond a value"
        kind = step(kind, part)
    return kind


@pytest.mark.parametrize(("name", "text"), list(strings()), ids=[name for name, _ in strings()])
def test_every_path_exists_in_the_model(name: str, text: str) -> None:
    query = hql.parse(text)
    kinds = {alias: entity for entity, alias in query.roots}
    assert all(isinstance(getattr(omero.model, kind, None), type) for kind in kinds.values())
    for join in query.joins:
        kinds[join.alias] = follow(kinds, join.path)
        assert kinds[join.alias] != "value"
    nodes = [*(item for item, _ in query.items), query.where, *query.groups, *(key for key, _ in query.order)]
    for node in nodes:
        for path in names_in(node):
            follow(kinds, path)


def test_a_path_that_does_not_exist_is_found() -> None:
    with pytest.raises(AssertionError, match="Well has no rows"):
        test_every_path_exists_in_the_model("", "select w.rows from Well w where w.plate.id = :id")
    with pytest.raises(AssertionError, match="Plate has no screen"):
        test_every_path_exists_in_the_model("", "select p.id from Well w join w.plate p where p.screen.name = :name")


@cache
def of_other_clients() -> str:
    """Return all that stands in strings of omero-py and ezomero, as one text."""
    folders = [Path(omero.gateway.__file__).parents[1], Path(ezomero.__file__).parent]
    files = [path for folder in folders for path in folder.rglob("*.py")]
    strings = (match[2] for path in files for match in re.finditer(r"(['\"])(.*?)\1", path.read_text(errors="replace")))
    return " ".join(" ".join(strings).split()).lower()


@pytest.mark.parametrize(("name", "text"), list(strings()), ids=[name for name, _ in strings()])
def test_only_constructs_that_other_clients_use(name: str, text: str) -> None:
    known = of_other_clients()
    flat = text.lower()
    used = {word for word in hql._RESERVED if re.search(rf"\b{word}\b", flat)}
    used |= {f"{match}(" for match in re.findall(r"\b(\w+)\(", flat) if match != "in"}
    for pattern in ("left outer join fetch", "left outer join", "join fetch", "select distinct", "count(distinct"):
        if pattern in flat:
            used.add(pattern)
    missing = [one for one in sorted(used) if one not in known]
    assert not missing
