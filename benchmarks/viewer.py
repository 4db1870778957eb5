"""What a plane costs the viewer's window, how long the window pauses, and whether its memory stays bounded."""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import SCRATCH, answer, call
from benchmarks.report import report

GOALS = {
    "plane_cost_growth": ("<=", 1.2),
    "vs_rebuild": (">=", 20),
    "longest_pause_ms": ("<=", 250),
    "memory_growth_10000": ("<=", 1.1),
}
CHANNELS = ("DAPI", "GFP", "RFP")
LAYERS = len(CHANNELS) + 1
"""Three channels and labels."""
REBUILT = 96


WELLS = 384
TICK_S = 0.033
"""Of the timer with which the window paints."""


def make_source(places: int, size: int) -> Any:
    """Return a source of one run of 384 wells with so many fields, whose planes are maps of a file."""
    from openhcs_jupyter.streaming.board import Board
    from openhcs_jupyter.streaming.layers import (
        FieldPlace,
        Layer,
        LayerKnown,
        LinkChanged,
        RunAnnounced,
        RunView,
        StackReady,
        WellPlace,
    )
    from openhcs_jupyter.streaming.planes import coarse
    from openhcs_jupyter.streaming.source import Plane, PlaneRequest, Source, TableRequest

    folder = SCRATCH / "viewer"
    folder.mkdir(parents=True, exist_ok=True)
    image, labels = folder / f"image-{size}.npy", folder / f"labels-{size}.npy"
    if not labels.exists():
        random = np.random.default_rng(1)
        y, x = np.mgrid[:size, :size]
        cells = 400 + 2000 * (np.sin(x / 17) * np.sin(y / 17)).clip(0)
        np.save(image, random.poisson(np.stack([cells] * 8)).astype(np.uint16))
        np.save(labels, np.stack([((x // 54) * 97 + y // 54 + 1) * (cells > 1200)] * 8).astype(np.int32))
    pixels = {"image": np.load(image, mmap_mode="r"), "labels": np.load(labels, mmap_mode="r")}

    class BenchSource(Source):
        def __init__(self) -> None:
            layers = [
                Layer(
                    index=i, name=name, result="image", kind="image", scope="field", channel=name, dtype="uint16",
                    size_t=1, size_z=1, size_y=size, size_x=size, pixel_size_um=0.65,
                )
                for i, name in enumerate(CHANNELS)
            ]  # fmt: skip
            layers.append(
                Layer(
                    index=len(CHANNELS), name="nuclei", result="nuclei", kind="labels", scope="field", over=0,
                    dtype="int32", size_t=1, size_z=1, size_y=size, size_x=size, pixel_size_um=0.65,
                )
            )  # fmt: skip
            numbers = tuple(range(1, 2 + (places - 1) // WELLS))
            fields = tuple(FieldPlace(number, None) for number in numbers)
            at = [divmod(i, 24) for i in range(WELLS)]
            wells = [WellPlace(row=row, column=column, fields=fields, units=len(numbers)) for row, column in at]
            self.view = RunView(
                id="run", name="run", plate="plate", rows=16, columns=24, wells=tuple(wells), fields=numbers,
                layers=tuple(layers), units=len(wells), started="2026-01-01T00:00:00Z",
            )  # fmt: skip
            self._board = Board()
            self._threads = ThreadPoolExecutor(2)

        def start(self) -> None:
            self._board.post(LinkChanged(link="local"))
            self._board.post(RunAnnounced(view=self.view))
            for layer in self.view.layers:
                self._board.post(LayerKnown(run="run", layer=layer))

        def name(self, place: int) -> tuple[str, int]:
            return self.view.wells[place % WELLS].name, place // WELLS + 1

        def announce(self, place: int, layer: int, version: str = "1") -> None:
            self._board.post(
                StackReady(
                    run="run", layer=layer, well=place % WELLS, field=place // WELLS, version=version, file="",
                    size_t=1, size_z=1, size_y=size, size_x=size, low=380, high=2300,
                )
            )  # fmt: skip
            self.version = version

        def subscribe(self, listener: Callable[[Any], None]) -> Callable[[], None]:
            return self._board.subscribe(listener)

        def fetch(self, request: PlaneRequest) -> Future[Plane]:
            return self._threads.submit(self._plane, request, self.version)

        def _plane(self, request: PlaneRequest, version: str) -> Plane:
            kind = self.view.layers[request.layer].kind
            plane = pixels[kind][(request.well + request.layer + len(version)) % 8]
            if request.coarse:
                plane = coarse(plane, kind)
            return Plane(array=np.asarray(plane), version=version)

        def fetch_table(self, request: TableRequest) -> Future[Any]:
            raise NotImplementedError

        def close(self) -> None:
            self._threads.shutdown()

    return BenchSource()


def open_window(source: Any) -> Any:
    """Open a window on the screen of the tests' kind, and wait until its layers are there."""
    from tests.viewer.screen import OpenWindow

    window = OpenWindow(source)
    window.until(lambda: len(window.viewer.layers) == LAYERS, "the layers")
    window.until_painted()
    return window


def until_held(window: Any, place: int, layer: int, version: str = "1", tick_s: float = 1e-4) -> float:
    """Let the session work, and nothing be drawn, until a plane has been painted; return the seconds of the window."""
    from openhcs_jupyter.viewer.models.planes import PlaneKey

    key = PlaneKey("run", layer, place % WELLS, place // WELLS, 0, 0)
    session = window.session
    level = window.layer("nuclei").data_level
    seconds = 0.0
    held = False
    while not held:
        held = session.store.has(key, level, version)
        begin = time.perf_counter()
        session.tick()
        seconds += time.perf_counter() - begin
        time.sleep(tick_s)  # the pace of the window
    return seconds


def plane_costs(source: Any, window: Any, mode: str, first: int, count: int) -> list[float]:
    """Return the seconds of the window's thread that each new plane takes until it has been painted, before drawing."""
    seconds = []
    for well in range(first, first + count):
        if mode == "field":
            window.session.go(*source.name(well))
            window.until_painted()
        source.announce(well, 0)
        seconds.append(until_held(window, well, 0, tick_s=TICK_S))
        window.turn()
    return seconds


def growth(mode: str, planes: int, repeats: int) -> float:
    """Measure how much more a new plane costs after `planes` others than after ten."""
    source = make_source(planes + 2 * repeats, size=512)
    window = open_window(source)
    window.session.arrange(mode)
    window.until_painted()
    for well in range(10):
        source.announce(well, 0)
    window.until_painted()
    early = plane_costs(source, window, mode, 10, repeats)
    for well in range(10 + repeats, planes):
        source.announce(well, 0)
    window.until_painted()
    late = plane_costs(source, window, mode, planes, repeats)
    window.close()
    few, many = statistics.median(early), statistics.median(late)
    print(f"  {mode}: {few * 1e3:.2f} ms at 10 planes, {many * 1e3:.2f} ms at {planes}", flush=True)
    return many / few


def rebuild(repeats: int, size: int) -> float:
    """Compare the rebuilding of an array of planes with what a new plane costs here, both before drawing."""
    import napari

    source = make_source(WELLS, size)
    window = open_window(source)
    for well in range(REBUILT - repeats):
        source.announce(well, 0)
    window.until_painted()
    ours = plane_costs(source, window, "field", REBUILT - repeats, repeats)
    window.close()
    planes = [np.array(np.load(SCRATCH / "viewer" / f"image-{size}.npy", mmap_mode="r")[i % 8]) for i in range(REBUILT)]
    viewer = napari.Viewer()
    layer = viewer.add_image(np.stack(planes), contrast_limits=(0, 3000))
    theirs = []
    for _ in range(max(3, repeats // 3)):
        begin = time.perf_counter()
        layer.data = np.stack(planes)
        theirs.append(time.perf_counter() - begin)
    viewer.close()
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"  a plane: {mine * 1e3:.1f} ms; rebuilding {REBUILT} planes: {other * 1e3:.0f} ms", flush=True)
    return other / mine


def longest_pause(mode: str, seconds: float, size: int) -> tuple[float, float]:
    """Return the longest pause of the window in seconds while 100 planes a second arrive, and the planes a second.

    In mode ``plate`` each is another field of the plate, in mode ``field`` each is a newer one of the field in sight.
    """
    from qtpy.QtCore import QTimer

    source = make_source(WELLS, size)
    window = open_window(source)
    window.session.arrange(mode)
    window.until_painted()
    pauses: list[float] = []
    last = time.perf_counter()

    def beat() -> None:
        nonlocal last
        now = time.perf_counter()
        pauses.append(now - last)
        last = now

    def announce() -> None:
        begin = time.perf_counter()
        for i in range(int(seconds * 100)):
            well, version = (i // LAYERS, "1") if mode == "plate" else (0, str(i // LAYERS))
            source.announce(well, i % LAYERS, version)
            time.sleep(max(0.0, begin + (i + 1) / 100 - time.perf_counter()))

    heart = QTimer()
    heart.setInterval(1)
    heart.timeout.connect(beat)
    thread = threading.Thread(target=announce)
    begin = last = time.perf_counter()
    heart.start()
    thread.start()
    while thread.is_alive() or not all(feed.planes.is_idle for feed in window.session.feeds):
        window.app.processEvents()
        time.sleep(0.0005)  # between looks
    rate = seconds * 100 / (time.perf_counter() - begin)
    heart.stop()
    window.close()
    print(f"  {mode}: {rate:.0f} planes a second, longest pause {max(pauses) * 1e3:.0f} ms", flush=True)
    return max(pauses), rate


def memory(planes: int, size: int) -> None:
    """Print the memory of this process after 100 planes and after `planes`, each shown in full."""
    import psutil

    source = make_source(planes // LAYERS, size)
    window = open_window(source)
    window.session.store.budget = 1 << 27  # 100 planes fill it
    window.viewer.scene.camera.zoom = 4  # so near that full planes are needed
    window.until_painted()
    process = psutil.Process()

    def used() -> float:
        mine = process.memory_info()
        return float(mine.rss - mine.shared)

    marks = {}
    for well in range(planes // LAYERS):
        for layer in range(LAYERS):
            source.announce(well, layer)
        window.session.go(*source.name(well))
        for layer in range(LAYERS):
            until_held(window, well, layer)
        if well % 20 == 0:
            window.turn()
        if well in (100 // LAYERS - 1, planes // LAYERS - 1):
            marks[well] = used()
    window.close()
    answer(**{f"after_{index}": value for index, value in enumerate(marks.values())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few planes: shows that it runs")
    parser.add_argument("--memory", type=int, metavar="PLANES", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.viewer.screen import application, xvfb

    size = 512 if options.quick else 2048
    with xvfb():
        application()
        if options.memory is not None:
            memory(options.memory, size=1024)
            return
        planes, repeats, seconds = (100, 5, 2.0) if options.quick else (1000, 20, 10.0)
        growths = [growth(mode, planes, repeats) for mode in ("field", "plate")]
        faster = rebuild(min(repeats, 12), size)
        pauses = [longest_pause(mode, seconds, size) for mode in ("field", "plate")]
    told = call("benchmarks.viewer", "--memory", 400 if options.quick else 10_000)
    print(f"  {told['after_0'] / 1e6:.0f} MB after 100 planes, {told['after_1'] / 1e6:.0f} MB at the end", flush=True)
    figures = {
        "plane_cost_growth": max(growths),
        "vs_rebuild": faster,
        "longest_pause_ms": max(pause for pause, _ in pauses) * 1e3,
        "memory_growth_10000": told["after_1"] / told["after_0"],
        "planes_per_second": min(rate for _, rate in pauses),
    }
    report("viewer", figures, GOALS)


if __name__ == "__main__":
    main()
