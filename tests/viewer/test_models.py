"""What the viewer knows and holds, without a window."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openhcs_jupyter.streaming.layers import FieldPlace, Layer, RunView, WellPlace
from openhcs_jupyter.streaming.source import Plane, PlaneRequest, TableRequest
from openhcs_jupyter.viewer.models.axes import Axes
from openhcs_jupyter.viewer.models.colours import channel_colours
from openhcs_jupyter.viewer.models.contrast import Contrast
from openhcs_jupyter.viewer.models.fetching import Fetcher, Wish
from openhcs_jupyter.viewer.models.layout import Layout, Mode
from openhcs_jupyter.viewer.models.planes import Held, PlaneKey, PlaneStore, fitted, reduced
from openhcs_jupyter.viewer.models.scene import Scene
from tests.engine.bench import until

LAYER = Layer(
    index=0, name="image", result="image", kind="image", scope="field", dtype="uint16", pixel_size_um=0.5,
    size_t=1, size_z=2, size_y=40, size_x=60,
)  # fmt: skip


def _view(positions: dict[str, list[tuple[float, float] | None]], layer: Layer = LAYER, run: str = "run") -> RunView:
    wells = []
    for name, places in positions.items():
        fields = tuple(FieldPlace(number, place) for number, place in enumerate(places, 1))
        wells.append(WellPlace(row=ord(name[0]) - 65, column=int(name[1:]) - 1, fields=fields, units=len(fields)))
    numbers = tuple(range(1, 1 + max(len(places) for places in positions.values())))
    return RunView(
        id=run, name=run, plate="plate", rows=8, columns=12, wells=tuple(wells), fields=numbers, layers=(layer,),
        units=1, started="2026-01-01T00:00:00Z",
    )  # fmt: skip


def _filled(view: RunView) -> tuple[PlaneStore, dict[PlaneKey, np.ndarray]]:
    store, planes = PlaneStore(1 << 30), {}
    random = np.random.default_rng(1)
    for well in range(len(view.wells)):
        for field in range(len(view.wells[well].fields)):
            for z in range(2):
                key = PlaneKey("run", 0, well, field, 0, z)
                planes[key] = random.integers(1, 4000, (40, 60), dtype=np.uint16)
                store.put(key, Held(planes[key], 0, "1"))
    return store, planes


def test_axes_hold_the_wells_and_fields_of_all_runs_in_plate_order() -> None:
    one, two = _view({"B02": [None]}), _view({"A10": [None, None], "A02": [None]}, run="two")
    axes = Axes().joined([one, two])
    assert axes.wells == ("A02", "A10", "B02")
    assert axes.fields == (1, 2)
    assert axes.size_z == 2
    assert axes.joined([one]) == axes


@settings(max_examples=60, deadline=None)
@given(data=st.data(), mode=st.sampled_from(["field", "well", "plate"]))
def test_any_window_of_a_scene_is_that_window_of_the_whole(data: st.DataObject, mode: str) -> None:
    spots = st.tuples(st.integers(0, 200), st.integers(0, 200)).map(lambda yx: (float(yx[0]), float(yx[1])))
    places = st.lists(spots, min_size=2, max_size=3, unique=True)
    view = _view({name: data.draw(places) for name in ("A01", "A02", "B01")})
    store, _ = _filled(view)
    axes = Axes().joined([view])
    scene = Scene(view, LAYER, axes, Layout(mode, [view]), store)
    level = scene.levels[data.draw(st.integers(0, len(scene.levels) - 1))]
    at = tuple(data.draw(st.integers(0, size - 1)) for size in level.shape[:4])
    whole = np.array(level[at])
    assert whole.shape == level.shape[4:]
    rows, columns = (
        slice(*sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))) for size in whole.shape
    )
    # As napari asks: first for the region, then for the position.
    everything = (slice(None),) * 4
    np.testing.assert_array_equal(level[(*everything, rows, columns)][at], whole[rows, columns])


def test_fields_lie_where_the_stage_was() -> None:
    view = _view({"A01": [(1000.0, 1000.0), (1020.0, 1000.0), (1000.0, 1025.0)]})
    store, planes = _filled(view)
    scene = Scene(view, LAYER, Axes().joined([view]), Layout("well", [view]), store)
    assert scene.shape == (1, 1, 1, 2, 80, 110)
    whole = scene.levels[0][0, 0, 0, 1]
    np.testing.assert_array_equal(whole[:40, :50], planes[PlaneKey("run", 0, 0, 0, 0, 1)][:, :50])
    np.testing.assert_array_equal(whole[40:, :60], planes[PlaneKey("run", 0, 0, 1, 0, 1)])
    np.testing.assert_array_equal(whole[:40, 50:], planes[PlaneKey("run", 0, 0, 2, 0, 1)])


@pytest.mark.parametrize("mode", ["field", "well"])
def test_a_part_of_a_field_lies_where_it_was_cut_out(mode: Mode) -> None:
    cut = msgspec.structs.replace(LAYER, index=1, corner_um=(4.0, 10.0), pixel_size_um=1.0, size_y=10, size_x=12)
    view = msgspec.structs.replace(_view({"A01": [(1000.0, 1000.0), (1020.0, 1000.0)]}), layers=(LAYER, cut))
    layout = Layout(mode, [view])
    tiles = layout.tiles(view, cut, 0, 1)
    assert [(tile.y, tile.x) for tile in tiles] == {"field": [(4, 10)], "well": [(4, 10), (24, 10)]}[mode]
    assert layout.shape(cut) == {"field": (14, 22), "well": (40, 30)}[mode]
    assert layout.shape(LAYER) == {"field": (40, 60), "well": (80, 60)}[mode]
    alone = msgspec.structs.replace(view, layers=(cut,))
    assert Layout(mode, [alone]).shape(cut) >= (14, 22)


def test_fields_without_positions_lie_in_a_grid_and_do_not_touch() -> None:
    view = _view({"A01": [None] * 5})
    layout = Layout("well", [view])
    tiles = layout.tiles(view, LAYER, 0, 0)
    corners = {(tile.y, tile.x) for tile in tiles}
    assert len(corners) == 5
    assert all(abs(a[0] - b[0]) > 40 or abs(a[1] - b[1]) > 60 for a in corners for b in corners if a != b)


def test_a_plane_that_arrives_is_painted_and_a_void_one_goes() -> None:
    view = _view({"A01": [None]})
    store = PlaneStore(1 << 30)
    scene = Scene(view, LAYER, Axes().joined([view]), Layout("field", [view]), store)
    key = PlaneKey("run", 0, 0, 0, 0, 0)
    assert not scene.levels[0][0, 0, 0, 0].any()
    coarse = np.full((5, 8), 7, np.uint16)
    store.put(key, Held(coarse, 3, "1"))
    scene.spoil({key})
    assert (scene.levels[0][0, 0, 0, 0] == 7).all()
    full = np.arange(2400, dtype=np.uint16).reshape(40, 60)
    store.put(key, Held(full, 0, "1"))
    scene.spoil({key})
    np.testing.assert_array_equal(scene.levels[0][0, 0, 0, 0], full)
    store.forget_run("run")
    scene.spoil(None)
    assert not scene.levels[0][0, 0, 0, 0].any()


def test_labels_of_different_fields_differ_in_a_mosaic() -> None:
    labels = msgspec.structs.replace(LAYER, kind="labels", dtype="int32")
    view = _view({"A01": [None, None]}, labels)
    store = PlaneStore(1 << 30)
    for field in range(2):
        store.put(PlaneKey("run", 0, 0, field, 0, 0), Held(np.eye(40, 60, dtype=np.int32), 0, "1"))
    scene = Scene(view, labels, Axes().joined([view]), Layout("well", [view]), store)
    assert set(np.unique(scene.levels[0][0, 0, 0, 0])) == {0, scene.label_of(1, 0), scene.label_of(1, 1)}


def test_the_store_keeps_within_its_budget_and_drops_what_was_not_used() -> None:
    store = PlaneStore(10 * 800)
    keys = [PlaneKey("run", 0, well, 0, 0, 0) for well in range(50)]
    for key in keys:
        store.put(key, Held(np.zeros((20, 20), np.uint16), 0, "1"))
        store.best(keys[0], 0)
        assert store.bytes <= store.budget
    assert len(store) == 10
    assert store.has(keys[0], 0, "1")
    assert not store.has(keys[1], 0, "1")


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 4))
def test_a_plane_that_was_halved_covers_the_same_pixels(height: int, width: int, times: int) -> None:
    plane = np.full((height, width), 9, np.uint16)
    small = reduced(plane, times, labels=False)
    assert small.shape == (-(-height >> times), -(-width >> times))
    assert (small == 9).all()
    again = fitted(Held(small, times, "1"), 0)
    assert again.shape[0] >= height
    assert again.shape[1] >= width


def test_contrast_settles_and_is_not_led_by_one_bright_field() -> None:
    contrast = Contrast()
    moved = [contrast.add(100, 1000 + i % 5) for i in range(200)]
    assert sum(moved) <= 2
    contrast.add(90, 60_000)
    assert contrast.limits is not None
    assert contrast.limits[1] < 1100
    flat = Contrast()
    flat.add(5, 5)
    assert flat.limits is not None
    assert flat.limits[0] < flat.limits[1]


def test_channels_have_the_colours_of_their_wavelengths_and_differ() -> None:
    def channel(name: str, emission: float | None, color: str | None = None) -> Layer:
        return msgspec.structs.replace(LAYER, channel=name, emission_nm=emission, color=color)

    dapi, gfp, red = channel_colours([channel("DAPI", 455), channel("a", 520), channel("b", 610)])
    assert max("RGB", key=lambda c: int(dapi["RGB".index(c) * 2 :][:2], 16)) == "B"
    assert max("RGB", key=lambda c: int(gfp["RGB".index(c) * 2 :][:2], 16)) == "G"
    assert max("RGB", key=lambda c: int(red["RGB".index(c) * 2 :][:2], 16)) == "R"
    assert len(set(channel_colours([channel(name, 536) for name in "abcd"]))) == 4
    assert channel_colours([channel("a", 520, "#ff0000")]) == ["FF0000"]


class _Held:
    """A source that answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[tuple[PlaneRequest, Future[Plane]]] = []
        self.news = threading.Event()

    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        future: Future[Plane] = Future()
        self.asked.append((request, future))
        return future

    def fetch_table(self, request: TableRequest) -> Future[object]:
        raise NotImplementedError


@pytest.fixture
def wishes() -> list[Wish]:
    return [Wish(PlaneKey("run", 0, well, 0, 0, 0), 0, "1", labels=False) for well in range(40)]


def test_planes_are_fetched_in_order_a_few_at_a_time_and_withdrawn(wishes: list[Wish]) -> None:
    source, store = _Held(), PlaneStore(1 << 30)
    fetcher = Fetcher(source, store, most=4)  # type: ignore[arg-type]  # a source of the test's own
    fetcher.wish(wishes, coarse_first=False)
    assert [request.well for request, _ in source.asked] == [0, 1, 2, 3]
    fetcher.wish(wishes[20:], coarse_first=False)
    assert all(future.cancelled() for _, future in source.asked[:4])
    assert [request.well for request, _ in source.asked[4:]] == [20, 21, 22, 23]
    source.asked[4][1].set_result(Plane(array=np.ones((40, 60), np.uint16), version="1"))
    assert until(fetcher.take_arrived, "the plane") == {wishes[20].key}
    assert store.has(wishes[20].key, 0, "1")
    until(lambda: [request.well for request, _ in source.asked[8:]] == [24], "the next request")
    fetcher.close()


def test_over_a_network_small_planes_come_first(wishes: list[Wish]) -> None:
    source = _Held()
    fetcher = Fetcher(source, PlaneStore(1 << 30), most=8)  # type: ignore[arg-type]  # a source of the test's own
    fetcher.wish(wishes[:4], coarse_first=True)
    assert [(request.well, request.coarse) for request, _ in source.asked] == [
        *((well, True) for well in range(4)),
        *((well, False) for well in range(4)),
    ]
    fetcher.close()
