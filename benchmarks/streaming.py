"""Streaming: beside bare sockets and OpenHCS, what it costs a run, and how soon a plane is there on a slow link."""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer import peer_python
from benchmarks.plates import PlateShape, plate_folder
from benchmarks.processes import CHECKOUT, SCRATCH, PeakMemory, environment
from benchmarks.report import interleaved, median_ratio, report
from benchmarks.streaming_arms import AHEAD, SIDE, camera_plane
from openhcs_jupyter import Pipeline, Step, compile, discover, run
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.streaming import PlaneRequest, RemoteSource
from openhcs_jupyter.streaming.keys import ConnectionFile, KeyPair, new_keys, read_private
from openhcs_jupyter.streaming.layers import StackReady
from tests.streaming.network import KERNEL_ADDRESS, Network, can_make_networks, network

GOALS = {
    "vs_bare_curve": (">=", 0.9),
    "vs_bare_ipc": (">=", 0.9),
    "vs_openhcs": (">=", 20),
    "run_with_viewer": ("<=", 1.03),
    "run_with_stopped_viewer": ("<=", 1.01),
    "memory_with_stopped_viewer": ("<=", 1.05),
    "first_image": ("<=", 0.10),
    "full_image": ("<=", 0.65),
    "unit_to_pixels_ms_p50": ("<=", 60),
}
_PEER_PORT = 47555
_RATE, _DELAY_S = "100mbit", "0.01"


@contextmanager
def program(*words: str, prefix: tuple[str, ...] = (), python: Path | str = sys.executable) -> Iterator[Any]:
    """Start one of the benchmark's processes; gives a function that sends it a line and returns its answer."""
    command = [*prefix, str(python), "-m", "benchmarks.streaming_arms", *words]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    standard_input, standard_output = process.stdin, process.stdout

    def ask(**what: object) -> dict[str, Any]:
        if what:
            standard_input.write(json.dumps(what) + "\n")
            standard_input.flush()
        line = standard_output.readline()
        if not line:
            raise RuntimeError(f"{' '.join(command)} has ended")
        found: dict[str, Any] = json.loads(line)
        return found

    ask.pid = process.pid  # type: ignore[attr-defined]  # a function takes attributes
    ask.first = ask()  # type: ignore[attr-defined]  # likewise
    try:
        yield ask
    finally:
        standard_input.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def camera_run(place: Path, wells: int) -> Path:
    """Make a run whose results are planes as from a camera; return its folder."""
    import tifffile

    folder = place / "camera"
    source = plate_folder(PlateShape(wells=wells, sites=4, channels=1, z=1, size=64))
    subprocess.run(["cp", "-r", str(source), str(folder)], check=True)
    for number, file in enumerate(sorted(folder.rglob("*.tif"))):
        tifffile.imwrite(file, camera_plane(number))
    repository = EmbeddedRepository(place / "repository")
    plate = repository.plate(repository.import_plate(folder).id)
    done = run(compile(Pipeline((Step(max_projection, save=True),), "camera"), plate, discover(), workers=2)).result()
    repository.close()
    return done.folder


class Subscriber:
    """A viewer in this process that has planes sent to it."""

    def __init__(self, file: Path, *, tcp: bool, mapping: bool = False) -> None:
        found = read_private(file, ConnectionFile)
        self.source = (
            RemoteSource(found.endpoints[1], server_key=found.server_key, keys=found.viewer, mapping=mapping)
            if tcp
            else RemoteSource(found.endpoints[0], mapping=mapping)
        )
        self.stacks: list[StackReady] = []
        self._news = threading.Semaphore(0)

    def open(self, count: int) -> None:
        """Connect, and wait until so many stacks are announced."""
        self.source.subscribe(self._hear)
        self.source.start()
        for _ in range(count):
            self._news.acquire()

    def _hear(self, announcement: object) -> None:
        if isinstance(announcement, StackReady):
            self.stacks.append(announcement)
            self._news.release()

    def fetch(self, number: int) -> Any:
        """Ask for one plane."""
        a = self.stacks[number % len(self.stacks)]
        return self.source.fetch(PlaneRequest(run=a.run, layer=a.layer, well=a.well, field=a.field, t=0, z=0))

    def take(self, count: int, ahead: int = AHEAD) -> None:
        """Have so many planes sent, some of them asked for ahead."""
        done, lock = threading.Event(), threading.Lock()
        asked, left = ahead, count

        def arrived(future: Any) -> None:
            nonlocal asked, left
            assert future.result().array.shape == (SIDE, SIDE)
            with lock:
                left -= 1
                number, asked = asked, asked + 1
            if number < count:
                self.fetch(number).add_done_callback(arrived)
            elif left == 0:
                done.set()

        for number in range(ahead):
            self.fetch(number).add_done_callback(arrived)
        done.wait()


def take_bare(dealer: Any, count: int) -> None:
    """Do the same with a bare socket."""
    for number in range(AHEAD):
        dealer.send(str(number).encode())
    for number in range(count):
        frames = dealer.recv_multipart(copy=False)
        assert np.frombuffer(frames[1].buffer, np.uint16).reshape(SIDE, SIDE).shape == (SIDE, SIDE)
        if number + AHEAD < count:
            dealer.send(str(number + AHEAD).encode())


def against_bare(place: Path, folder: Path, count: int, repeats: int) -> dict[str, float]:
    """Compare the sustained rate with that of a bare pair of sockets, in short turns, as a machine's speed changes."""
    import zmq

    figures = {}
    with program("kernel", str(place / "k"), "127.0.0.1", str(folder)):
        file = place / "k" / "connection.json"
        for name, tcp in (("vs_bare_curve", True), ("vs_bare_ipc", False)):
            keys, own = new_keys(), new_keys()
            address = "tcp://127.0.0.1:47561" if tcp else f"ipc://{tempfile.mkdtemp(prefix='bare')}/s"
            told = json.dumps({"secret": keys.secret, "public": keys.public}) if tcp else ""
            with program("bare", address, told, str(folder)), ExitStack() as opened:
                context: Any = zmq.Context()
                dealer = context.socket(zmq.DEALER)
                if tcp:
                    _join(dealer, own, keys.public)
                dealer.connect(address)
                subscriber = Subscriber(file, tcp=tcp)
                opened.callback(subscriber.source.close)
                subscriber.open(1)
                works = {"ours": lambda s=subscriber: s.take(count), "bare": lambda d=dealer: take_bare(d, count)}
                seconds = interleaved(works, repeats)
                dealer.send(b"end", zmq.NOBLOCK)
                dealer.close(linger=1000)
                context.term()
            each = {arm: statistics.median(times) / count * 1e3 for arm, times in seconds.items()}
            print(f"  {name}: ours {each['ours']:.2f} ms a plane, bare {each['bare']:.2f} ms", flush=True)
            figures[name] = median_ratio(seconds["bare"], seconds["ours"])
    return figures


def _join(socket: Any, keys: KeyPair, server: str) -> None:
    socket.curve_serverkey = server.encode()
    socket.curve_secretkey, socket.curve_publickey = keys.secret.encode(), keys.public.encode()


def against_openhcs(place: Path, folder: Path, count: int, repeats: int) -> dict[str, float]:
    """Compare the time of one plane after another on one machine; without a window on either side."""
    port = str(_PEER_PORT)
    with ExitStack() as opened:
        opened.enter_context(program("peer", "viewer", port, python=peer_python()))
        ask = opened.enter_context(program("peer", "kernel", port, python=peer_python()))
        opened.enter_context(program("kernel", str(place / "k2"), "127.0.0.1", str(folder)))
        subscriber = Subscriber(place / "k2" / "connection.json", tcp=False, mapping=True)
        opened.callback(subscriber.source.close)
        subscriber.open(4)

        def ours() -> None:
            for number in range(count):
                subscriber.fetch(number).result(60).array.max()

        seconds = interleaved({"openhcs": lambda: ask(count=count), "ours": ours}, repeats)
        _end_peer(port)
    each = {arm: statistics.median(times) / count * 1e3 for arm, times in seconds.items()}
    print(f"  one plane: ours {each['ours']:.2f} ms, OpenHCS {each['openhcs']:.1f} ms", flush=True)
    return {"vs_openhcs": median_ratio(seconds["openhcs"], seconds["ours"])}


def _end_peer(port: str) -> None:
    import zmq

    context: Any = zmq.Context()
    requester = context.socket(zmq.REQ)
    requester.connect(f"tcp://127.0.0.1:{port}")
    requester.send_json("end")
    requester.close(linger=1000)
    context.term()


def beside_a_run(shape: PlateShape, repeats: int) -> dict[str, float]:
    """Compare runs without a viewer, with one, and with one that is stopped; and how soon pixels are there.

    One process does them in turn: two that do the same differ by more than a viewer costs. On a machine on which other
    work comes and goes, the same run differs by more than that, too. So there are two figures more: the ratio of the
    fastest runs, as other work only ever slows a run; and of the CPU that a run used with what serving took of it to
    that without, taken from one and the same run.
    """
    plate = str(plate_folder(shape))
    waited: list[float] = []
    seconds: dict[str, list[float]] = {"alone": [], "viewer": [], "stopped": []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    shares: dict[str, list[float]] = {name: [] for name in seconds}
    with ExitStack() as opened:
        runner = opened.enter_context(program("run", plate, "viewer", "stopped"))
        viewers = {name: opened.enter_context(program("watch", file)) for name, file in runner.first["files"].items()}
        for repeat in range(repeats + 1):
            for name in random.Random(repeat).sample(list(seconds), len(seconds)):
                os.sync()
                with _stopped(viewers["stopped"].pid) if name == "stopped" and repeat else nullcontext():
                    done = runner(show=name)
                if name in viewers:
                    arrived = viewers[name](run=Path(done["folder"]).name)["arrived"]
                    if name == "viewer" and repeat:
                        waited += _waits(Path(done["folder"]), arrived)
                shutil.rmtree(done["folder"])
                if repeat:
                    seconds[name].append(done["seconds"])
                    cpu[name].append(done["cpu"])
                    shares[name].append(done["cpu"] / (done["cpu"] - done["serving"]))
    for name, times in seconds.items():
        print(f"  run {name}: {statistics.median(times):.3f} s, the fastest {min(times):.3f} s", flush=True)
    return {
        "run_with_viewer": median_ratio(seconds["viewer"], seconds["alone"]),
        "run_with_stopped_viewer": median_ratio(seconds["stopped"], seconds["alone"]),
        "run_with_viewer_cpu": median_ratio(cpu["viewer"], cpu["alone"]),
        "run_with_stopped_viewer_cpu": median_ratio(cpu["stopped"], cpu["alone"]),
        "run_with_viewer_fastest": min(seconds["viewer"]) / min(seconds["alone"]),
        "run_with_stopped_viewer_fastest": min(seconds["stopped"]) / min(seconds["alone"]),
        "run_with_viewer_share": statistics.median(shares["viewer"]),
        "run_with_stopped_viewer_share": statistics.median(shares["stopped"]),
        "unit_to_pixels_ms_p50": 1e3 * float(np.percentile(waited, 50)),
        "unit_to_pixels_ms_p95": 1e3 * float(np.percentile(waited, 95)),
    }


def memory_beside_a_run(shape: PlateShape, repeats: int) -> dict[str, float]:
    """Compare the memory of two processes that do the same runs, one of which has a stopped viewer to serve."""
    plate = str(plate_folder(shape))
    memory: dict[str, list[float]] = {"alone": [], "stopped": []}
    with ExitStack() as opened:
        runners = {name: opened.enter_context(program("run", plate, "stopped")) for name in memory}
        viewer = opened.enter_context(program("watch", runners["stopped"].first["files"]["stopped"]))
        for repeat in range(repeats + 1):
            for name, runner in runners.items():
                with _stopped(viewer.pid), PeakMemory(runner.pid, every_s=0.1) as peak:
                    done = runner(show=name)
                if name == "stopped":
                    viewer(run=Path(done["folder"]).name)
                shutil.rmtree(done["folder"])
                if repeat:
                    memory[name].append(float(peak.bytes))
    for name, sizes in memory.items():
        print(f"  run {name}: {statistics.median(sizes) / 1e6:.0f} MB", flush=True)
    return {"memory_with_stopped_viewer": median_ratio(memory["stopped"], memory["alone"])}


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stop a process meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _waits(folder: Path, arrived: list[list[float]]) -> Iterator[float]:
    """Iterate over the seconds from a unit's end until its pixels were there."""
    from openhcs_jupyter.engine.journal import JournalReader
    from openhcs_jupyter.engine.store import RunFolder

    plan = RunFolder(folder).plan()
    ends = {
        (plan.units[event.unit].well, plan.units[event.unit].field): event.time
        for event in JournalReader(folder / "journal.jsonl").read()
        if isinstance(event, UnitDone)
    }
    wells = sorted({unit.well for unit in plan.units if unit.well}, key=lambda name: (name[0], int(name[1:])))
    fields = sorted({unit.field for unit in plan.units if unit.field})
    for _, well, field, at in arrived:
        yield at - ends[wells[int(well)], fields[int(field)]]


def over_a_slow_link(place: Path, folder: Path, repeats: int) -> dict[str, float]:
    """Measure how soon a plane is there over 100 Mbit/s and 10 ms each way, beside the raw plane over the same link."""
    firsts, fulls = [], []
    with network() as cable, ExitStack() as opened:
        cable.limit(_RATE)
        opened.enter_context(_on(cable, "kernel", "kernel", str(place / "k3"), KERNEL_ADDRESS, str(folder)))
        file = place / "k3" / "connection.json"
        endpoint = read_private(file, ConnectionFile).endpoints[1]
        gush = opened.enter_context(_on(cable, "kernel", "gush", "47001"))
        ports = (46001, 46002, 46003)
        targets = [endpoint.control.rpartition(":")[2], endpoint.news.rpartition(":")[2], "47001"]
        for port, target in zip(ports, targets, strict=True):
            relay = opened.enter_context(cable.started("viewer", "relay", str(port), KERNEL_ADDRESS, target, _DELAY_S))
            assert relay.stdout is not None
            relay.stdout.readline()
        drink = opened.enter_context(_on(cable, "viewer", "drink", str(ports[2])))
        addresses = [f"tcp://127.0.0.1:{port}" for port in ports[:2]]
        fetch = opened.enter_context(_on(cable, "viewer", "fetch", str(file), *addresses))
        for repeat in range(repeats + 1):
            raw = _raw_plane(gush, drink)
            took = fetch(go=True)
            if repeat:
                firsts.append(took["coarse"] / raw)
                fulls.append(took["full"] / raw)
                told = f"coarse {took['coarse'] * 1e3:.0f} ms, full {took['full'] * 1e3:.0f} ms"
                print(f"  raw plane {raw * 1e3:.0f} ms, {told}", flush=True)
    return {"first_image": statistics.median(firsts), "full_image": statistics.median(fulls)}


def _raw_plane(gush: Any, drink: Any) -> float:
    answers: list[dict[str, Any]] = []
    sender = threading.Thread(target=lambda: answers.append(gush(go=True)))
    sender.start()
    seconds = float(drink(go=True)["seconds"])
    sender.join()
    return seconds


def _on(cable: Network, side: str, *words: str) -> Any:
    return program(*words, prefix=tuple(cable.command(side)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat: shows that it runs")
    parser.add_argument("--only", choices=("bare", "openhcs", "run", "link"), help="one part of it")
    options = parser.parse_args()
    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    repeats = 1 if options.quick else 7
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="streaming-", dir=SCRATCH / "work") as name:
        place = Path(name)
        folder = camera_run(place, wells=1 if options.quick else 2)
        if options.only in (None, "bare"):
            figures |= against_bare(place, folder, *((8, 1) if options.quick else (20, 30)))
        if options.only in (None, "openhcs"):
            figures |= against_openhcs(place, folder, 2 if options.quick else 5, repeats)
        if options.only in (None, "run"):
            shape = PlateShape(wells=2 if options.quick else 48, sites=4, channels=2, z=1, size=1080)
            figures |= beside_a_run(shape, 9 if repeats > 1 else 1)  # a hundredth is looked for
            figures |= memory_beside_a_run(shape, 3 if repeats > 1 else 1)
        if options.only in (None, "link"):
            if can_make_networks():
                figures |= over_a_slow_link(place, folder, repeats)
            else:
                print("  first_image, full_image: only root makes the network that they need", flush=True)
    report("streaming", figures, GOALS)


if __name__ == "__main__":
    main()
