"""Fingerprints of values: what they are, and not how they came to be, makes their identity."""

from __future__ import annotations

import dataclasses
import enum
import logging
import types
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.pipeline import Labels
from openhcs_jupyter.pipeline.fingerprint import (
    FingerprintError,
    combine,
    fingerprint_value,
)


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Both(enum.IntFlag):
    ONE = 1
    TWO = 2


class Pair(NamedTuple):
    a: int
    b: int


@dataclasses.dataclass
class Data:
    a: int
    b: Any = None


class Struct(msgspec.Struct):
    a: int
    b: Any = None


class Slots:
    __slots__ = ("a",)

    def __init__(self, a: object) -> None:
        self.a = a


class Words(dict[str, int]):
    pass


DISTINCT: list[Any] = [
    None,
    ...,
    0,
    1,
    True,
    False,
    1.0,
    0.0,
    -0.0,
    float("nan"),
    1j,
    "",
    "1",
    b"1",
    "None",
    [],
    (),
    {},
    set(),
    frozenset(),
    [1, [2]],
    [[1], 2],
    [[1, 2]],
    (1, 2),
    [1, 2],
    {1, 2},
    frozenset({1, 2}),
    {"a": 1, "b": 2},
    {"b": 2, "a": 1},
    ["ab", "c"],
    ["a", "bc"],
    Colour.RED,
    Colour.BLUE,
    Both.ONE,
    Both.ONE | Both.TWO,
    Pair(1, 2),
    Data(1),
    Data(1, 2),
    Struct(1),
    Struct(1, 2),
    Slots(1),
    Slots(2),
    Words(a=1),
    Words(a=2),
    Labels("nuclei"),
    Labels("cells"),
    Path("a"),
    range(3),
    slice(1, 2),
    types.SimpleNamespace,
    logging.getLogger("a"),
    dataclasses.MISSING,
    int,
    list[int],
    int | None,
    np.dtype("u2"),
    np.uint16,
    np.float64(1),
    np.float32(1),
    np.int64(1),
    np.zeros(0),
    np.zeros((0, 2)),
    np.arange(6, dtype=np.uint16),
    np.arange(6, dtype=np.int16),
    np.arange(6, dtype=np.uint16).reshape(2, 3),
    np.arange(6, dtype=np.uint16).reshape(3, 2),
    np.array(["a", "b"]),
    np.array(["a", 1], dtype=object),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.ma.masked_array([1, 2], [True, False]),
    np.ma.masked_array([1, 2], [False, True]),
    np.datetime64("2026-01-01"),
    pd.Timestamp("2026-01-01"),
    pd.Timestamp("2026-01-01", tz="UTC"),
    pd.NA,
    pd.NaT,
    pd.DataFrame({"a": [1, 2]}),
    pd.DataFrame({"a": [1, 3]}),
    pd.DataFrame({"a": [1.0, 2.0]}),
    pd.DataFrame({"b": [1, 2]}),
    pd.DataFrame({"a": [1, 2]}, index=[1, 2]),
    pd.DataFrame({"a": ["x", None]}),
    pd.DataFrame({"a": ["x", "None"]}),
    pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
    pd.DataFrame({"a": pd.Categorical(["x", "y"], ["y", "x"])}),
    pd.Series([1, 2]),
    pd.Series([1, 2], name="a"),
    pd.Index([1, 2]),
    pd.MultiIndex.from_tuples([(1, "a"), (2, "b")]),
]


def test_values_that_differ_have_fingerprints_that_differ() -> None:
    found: dict[str, object] = {}
    for value in DISTINCT:
        one = fingerprint_value(value)
        assert one not in found, f"{value!r} looks like {found.get(one)!r}"
        found[one] = value
        assert fingerprint_value(value) == one


def test_arrays_count_by_content_not_by_layout() -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert fingerprint_value(array) == fingerprint_value(np.asfortranarray(array))
    assert fingerprint_value(array[::2]) == fingerprint_value(array[::2].copy())
    assert fingerprint_value(pd.DataFrame({"a": [1, 2]})) == fingerprint_value(
        pd.DataFrame({"a": [0, 1, 2]})[1:].reset_index(drop=True)
    )


def test_a_container_that_holds_itself() -> None:
    def ring(last: int) -> list[Any]:
        items: list[Any] = [1, last]
        items.append({"back": items})
        return items

    assert fingerprint_value(ring(2)) == fingerprint_value(ring(2))
    assert fingerprint_value(ring(2)) != fingerprint_value(ring(3))


def test_a_nesting_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(FingerprintError):
        fingerprint_value(deep)
    while deep:
        deep = deep[0]


atoms = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(), st.sampled_from(Colour)
)
hashables = st.recursive(
    atoms, lambda inner: st.one_of(st.tuples(inner, inner), st.frozensets(inner, max_size=4)), max_leaves=8
)
values = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(hashables, inner, max_size=4),
        st.builds(Data, st.integers(), inner),
    ),
    max_leaves=12,
)


def exact(value: Any) -> object:
    """Say a value so that equal words mean the same value of the same type."""
    if isinstance(value, frozenset):
        return ("frozenset", tuple(sorted(map(repr, map(exact, value)))))
    if isinstance(value, list | tuple):
        return (type(value).__name__, tuple(map(exact, value)))
    if isinstance(value, dict):
        return ("dict", tuple((exact(key), exact(item)) for key, item in value.items()))
    if isinstance(value, Data):
        return ("Data", value.a, exact(value.b))
    return (type(value).__name__, repr(value))


@given(values, values)
def test_fingerprints_are_equal_when_the_values_are(one: object, other: object) -> None:
    assert (fingerprint_value(one) == fingerprint_value(other)) == (repr(exact(one)) == repr(exact(other)))


@given(st.lists(hashables, max_size=6), st.randoms())
def test_the_order_in_which_a_set_was_filled_does_not_count(items: list[Any], random: Any) -> None:
    one = set(items)
    kept = list(one)
    random.shuffle(kept)
    assert fingerprint_value(one) == fingerprint_value(set(kept))


@given(
    st.lists(st.one_of(st.text(), st.binary(), st.integers())),
    st.lists(st.one_of(st.text(), st.binary(), st.integers())),
)
def test_combine_keeps_order_and_boundaries(one: list[Any], other: list[Any]) -> None:
    assert (combine(*one) == combine(*other)) == ([(type(x), x) for x in one] == [(type(x), x) for x in other])
    assert len(combine(*one)) == 32


def test_combine_tells_joined_parts_from_separate_ones() -> None:
    found = {
        combine(),
        combine(""),
        combine("ab"),
        combine("a", "b"),
        combine("b", "a"),
        combine(1),
        combine("1"),
        combine(b"1"),
    }
    assert len(found) == 8
