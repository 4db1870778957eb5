"""Tracking, held to objects whose ways are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openhcs_jupyter.errors import UsageError
from openhcs_jupyter.functions import measure_objects, measure_tracks, track_objects
from tests.functions.images import disks, quick
from tests.functions.test_measurement import HERE


def film(ways: list[list[tuple[int, float, float]]], seed: int = 0) -> pd.DataFrame:
    """A table of objects in any order; ``true`` tells which is which."""
    rows = [(t, y, x, way) for way, points in enumerate(ways) for t, y, x in points]
    table = pd.DataFrame(rows, columns=["t", "y", "x", "true"]).sample(frac=1, random_state=seed)
    table.insert(0, "field", 1)
    return table.sort_values("t", kind="stable").reset_index(drop=True)


def same(track: pd.Series[Any], true: pd.Series[Any]) -> bool:
    """Tell whether two ways of numbering divide the rows alike."""
    pairs = set(zip(track, true, strict=True))
    return len(pairs) == len(set(track)) == len(set(true))


@quick
@given(st.integers(1, 12), st.integers(2, 8), st.integers(0, 1000))
def test_objects_that_keep_apart_are_followed(count: int, times: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.array([(60.0 * (i // 4), 60.0 * (i % 4)) for i in range(count)])
    drift = rng.uniform(-2, 2, (count, 2))
    ways = [[(t + 1, *(starts[i] + t * drift[i] + rng.uniform(-2, 2, 2))) for t in range(times)] for i in range(count)]
    found = track_objects(film(ways, seed), max_distance=15)
    assert same(found["track"], found["true"])
    assert found["track"].min() == 1
    assert found["track"].max() == count
    assert found["moved"].isna().sum() == count


def test_all_together_move_least() -> None:
    # The nearest for the first alone would leave the second without a place.
    crowd = film([[(1, 0, 0), (2, 0, 6)], [(1, 0, 10), (2, 0, 16)]])
    assert same(track_objects(crowd, max_distance=8)["track"], crowd["true"])


def test_what_moves_too_far_is_new() -> None:
    found = track_objects(film([[(1, 0, 0), (2, 0, 30)]]), max_distance=20)
    assert found["track"].tolist() == [1, 2]


def test_an_object_that_is_gone_for_a_while_is_known_again() -> None:
    gap = film([[(1, 5, 5), (2, 6, 5), (4, 7, 6)], [(t, 50, 50) for t in (1, 2, 3, 4)]])
    assert same(track_objects(gap, memory=1)["track"], gap["true"])
    assert track_objects(gap, memory=0)["track"].nunique() == 3


def test_fields_are_tracked_apart() -> None:
    both = pd.concat([film([[(1, 0, 0), (2, 1, 1)]]), film([[(1, 0, 0), (2, 1, 1)]]).assign(field=2)])
    found = track_objects(both.reset_index(drop=True))
    assert found["track"].tolist() == [1, 1, 1, 1]
    assert found["moved"].dropna().tolist() == pytest.approx([2**0.5] * 2)


def test_large_objects_are_joined_by_overlap() -> None:
    frames = [disks([(40, 30 + 9 * t), (40, 58 + 9 * t)], radius=12) for t in range(4)]
    tables = []
    for t, frame in enumerate(frames):
        labels = np.zeros(frame.shape[1:], np.int32)
        columns = np.indices(labels.shape)[1]
        labels[frame[0] > 1000] = 1 + (columns[frame[0] > 1000] > 44 + 9 * t)
        tables.append(measure_objects(frame, labels, context=HERE._replace(channels=("A",))).assign(t=t + 1, field=1))
    found = track_objects(pd.concat(tables, ignore_index=True), by="overlap")
    assert same(found["track"], found["label"])


def test_tracks_are_measured() -> None:
    ways = film([[(1, 0, 0), (2, 3, 4), (3, 0, 0), (5, 6, 8)], [(2, 50, 50)]])
    found = measure_tracks(track_objects(ways, memory=2), HERE).set_index("track")
    first = found.loc[1]
    assert (first["first"], first["last"], first["points"]) == (1, 5, 4)
    assert first["path"] == pytest.approx(20)
    assert first["distance"] == pytest.approx(10)
    assert first["straightness"] == pytest.approx(0.5)
    assert first["speed"] == pytest.approx(5)
    assert first["path_um"] == pytest.approx(10)
    assert found.loc[2, "points"] == 1
    assert np.isnan(found.loc[2, "speed"])


def test_no_objects_have_no_tracks() -> None:
    none = film([[(1, 0, 0)]]).iloc[:0]
    assert list(track_objects(none).columns) == [*none.columns, "track", "moved"]
    assert len(measure_tracks(track_objects(none))) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"by": "colour"}, "by is 'colour'"), ({"max_distance": -1}, "max_distance"), ({"by": "overlap"}, "'y_min'")],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        track_objects(film([[(1, 0, 0)]]), **options)


def test_a_table_without_time_is_refused() -> None:
    with pytest.raises(UsageError, match="no column 't'"):
        track_objects(pd.DataFrame({"y": [1.0], "x": [1.0]}))
