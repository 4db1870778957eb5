"""Sources that are slow, wrong or gone: the window works on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.board import Board
from openhcs_jupyter.streaming.layers import (
    AnyAnnouncement,
    FieldPlace,
    Layer,
    LayerKnown,
    LinkChanged,
    Progressed,
    RunAnnounced,
    RunView,
    StackReady,
    WellPlace,
)
from openhcs_jupyter.streaming.source import Plane, PlaneRequest, Source, TableRequest
from tests.viewer.screen import OpenWindow

SIZE = 96
LONGEST_TICK_S = 0.25


class Scripted(Source):
    """A source that says and answers what the test tells it to."""

    def __init__(self, answer: Callable[[PlaneRequest], np.ndarray | None], run: str = "run") -> None:
        self.answer = answer
        self.run = run
        self.version = "1"
        self.asked: list[tuple[PlaneRequest, Future[Plane]]] = []
        self.board = Board()
        layer = Layer(
            index=0, name="image", result="image", kind="image", scope="field", dtype="uint16", pixel_size_um=0.5,
            size_t=1, size_z=1, size_y=SIZE, size_x=SIZE,
        )  # fmt: skip
        field = (FieldPlace(1, None),)
        self.view = RunView(
            id=run, name=run, plate="plate", rows=8, columns=12, fields=(1,), layers=(layer,), units=96,
            wells=tuple(WellPlace(row=i // 12, column=i % 12, fields=field, units=1) for i in range(96)),
            started="2026-01-01T00:00:00Z",
        )  # fmt: skip

    def start(self) -> None:
        self.board.post(LinkChanged(link="connected"))
        self.begin()

    def begin(self) -> None:
        self.board.post(RunAnnounced(view=self.view))
        self.board.post(LayerKnown(run=self.run, layer=self.view.layers[0]))

    def ready(self, well: int) -> None:
        self.board.post(
            StackReady(
                run=self.run, layer=0, well=well, field=0, version=self.version, file="", size_t=1, size_z=1,
                size_y=SIZE, size_x=SIZE, low=0, high=1000,
            )
        )  # fmt: skip
        self.board.post(Progressed(run=self.run, status="running", done=well + 1, failed=0, well=well, well_done=1))

    def say(self, announcement: AnyAnnouncement) -> None:
        self.board.post(announcement)

    def subscribe(self, listener: Callable[[AnyAnnouncement], None]) -> Callable[[], None]:
        return self.board.subscribe(listener)

    def fetch(self, request: PlaneRequest) -> Future[Plane]:
        future: Future[Plane] = Future()
        self.asked.append((request, future))
        try:
            array = self.answer(request)
        except StreamError as error:
            future.set_exception(error)
        else:
            if array is not None:
                future.set_result(Plane(array=array, version=self.version))
        return future

    def answer_waiting(self) -> None:
        for request, future in list(self.asked):
            if not future.done():
                future.set_result(Plane(array=self.answer(request), version=self.version))

    def fetch_table(self, request: TableRequest) -> Future[Any]:
        return Future()

    def close(self) -> None:
        self.say(LinkChanged(link="closed"))


def _full(value: int) -> Callable[[PlaneRequest], np.ndarray]:
    def answer(request: PlaneRequest) -> np.ndarray:
        side = SIZE // 8 if request.coarse else SIZE
        return np.full((side, side), value + request.well, np.uint16)

    return answer


def _longest_tick(window: OpenWindow, ticks: int = 20) -> float:
    longest = 0.0
    for _ in range(ticks):
        begin = time.perf_counter()
        window.session.tick()
        longest = max(longest, time.perf_counter() - begin)
        window.turn()
    return longest


def _start(open_window: Callable[..., OpenWindow], source: Scripted) -> OpenWindow:
    window = open_window(source)
    source.ready(0)
    window.until(lambda: "image" in window.viewer.layers, "the layer")
    return window


def test_a_source_that_never_answers_does_not_hold_up_the_window(open_window: Callable[..., OpenWindow]) -> None:
    source = Scripted(lambda request: None)
    window = _start(open_window, source)
    window.until(lambda: source.asked, "a request")
    for well in range(1, 96):
        source.ready(well)
    assert _longest_tick(window) < LONGEST_TICK_S
    for well in ("C05", "H12"):
        window.session.go(well)
        assert _longest_tick(window, 5) < LONGEST_TICK_S
    # What is no longer looked at is withdrawn, and no more is asked for at a time than a source can be expected to do.
    window.until(lambda: sum(not future.cancelled() for _, future in source.asked) <= 16, "withdrawn requests")
    window.close()


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (SIZE, 7), (500, 500)])
def test_planes_of_another_size_than_was_said_do_no_harm(
    open_window: Callable[..., OpenWindow], shape: tuple[int, int]
) -> None:
    source = Scripted(lambda request: np.full(shape, 500, np.uint16))
    window = _start(open_window, source)
    window.until(lambda: source.asked, "a request")
    window.until_painted()
    assert window.drawn("image").shape == (SIZE, SIZE)
    source.answer = _full(700)
    source.version = "2"
    source.ready(0)
    window.until(lambda: (window.drawn("image") == 700).all(), "the plane as it should be")


def test_a_plane_that_cannot_be_had_is_told_and_the_others_are_shown(open_window: Callable[..., OpenWindow]) -> None:
    def answer(request: PlaneRequest) -> np.ndarray:
        if request.well == 0:
            raise StreamError("The file of A01 is gone.")
        return _full(100)(request)

    source = Scripted(answer)
    window = _start(open_window, source)
    window.until(lambda: "The file of A01 is gone" in window.panel.message.text(), "the trouble in the panel")
    source.ready(1)
    window.session.go("A02")
    window.until(lambda: (window.drawn("image") == 101).all(), "the next well")


def test_a_run_that_starts_anew_replaces_what_was_there(open_window: Callable[..., OpenWindow]) -> None:
    source = Scripted(_full(100))
    window = _start(open_window, source)
    window.until(lambda: (window.drawn("image") == 100).all(), "the first start")
    source.answer, source.version = _full(300), "2"
    source.begin()
    window.until(lambda: not window.drawn("image").any(), "what is void to go")
    source.ready(0)
    window.until(lambda: (window.drawn("image") == 300).all(), "the second start")
    assert len(window.viewer.layers) == 1


def test_a_lost_connection_is_told_and_what_is_there_stays(open_window: Callable[..., OpenWindow]) -> None:
    source = Scripted(_full(100))
    window = _start(open_window, source)
    window.until(lambda: (window.drawn("image") == 100).all(), "the plane")
    source.answer = lambda request: None
    source.say(LinkChanged(link="lost", detail="no answer for 10 s"))
    window.until(lambda: "no answer for 10 s" in window.panel.link_text, "the loss in the panel")
    source.ready(1)
    window.session.go("A02")
    window.until(lambda: any(request.well == 1 for request, _ in source.asked), "a request that waits")
    window.session.go("A01")
    window.until(lambda: (window.drawn("image") == 100).all(), "the first well again")
    window.session.go("A02")
    source.say(LinkChanged(link="connected"))
    source.answer = _full(100)
    source.answer_waiting()
    window.until(lambda: (window.drawn("image") == 101).all(), "the second well")
    window.until(lambda: "Connected" in window.panel.link_text, "the connection in the panel")
