"""The processes of the streaming benchmark: ``python -m benchmarks.streaming_arms kernel|bare|run|watch|peer|...``."""

from __future__ import annotations

import json
import os
import queue
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.processes import SCRATCH, answer, cpu_seconds, pin_threads

SIDE = 2048
AHEAD = 8


def camera_plane(seed: int) -> Any:
    """Make a plane as a camera sees cells: their light, its shot noise, and the noise of reading."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(seed)
    light = np.full((SIDE, SIDE), 120.0, np.float32)
    for y, x in rng.integers(0, SIDE, (500, 2)):
        cv2.circle(light, (int(x), int(y)), int(rng.integers(10, 24)), float(rng.uniform(300, 3000)), -1)
    light = cv2.GaussianBlur(light, (0, 0), 3)
    return (rng.poisson(light) + rng.normal(100, 2, light.shape)).clip(0, 65535).astype(np.uint16)


def pin(cpu: int) -> None:
    """Keep this process and those that it starts to one core, counted among those that it may use."""
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[cpu % len(allowed)]})


def kernel(folder: str, host: str, *runs: str) -> None:
    """Serve runs until the input ends."""
    from openhcs_jupyter.streaming import StreamServer
    from openhcs_jupyter.streaming.keys import new_keys

    server = StreamServer(Path(folder), name="kernel", host=host, port=0, keys=new_keys())
    server.start()
    for run in runs:
        server.show(Path(run))
    answer(ready=True)
    sys.stdin.read()
    server.close()


def bare(address: str, keys: str, folder: str) -> None:
    """Answer requests with a run's planes and nothing else: a ROUTER, with the pixel server's headers and maps."""
    import numpy as np
    import zmq

    context: Any = zmq.Context()
    router = context.socket(zmq.ROUTER)
    if keys:
        pair = json.loads(keys)
        router.curve_server = True
        router.curve_secretkey, router.curve_publickey = pair["secret"].encode(), pair["public"].encode()
    router.bind(address)
    answer(ready=True)
    files = sorted(Path(folder).glob("units/*/image.*.npy"))
    planes = [np.load(file, mmap_mode="r").view(np.ndarray)[0, 0] for file in files]
    header = bytes(120)
    while True:
        peer, request = router.recv_multipart()
        if request == b"end":
            return
        router.send(peer, zmq.SNDMORE)
        router.send(header, zmq.SNDMORE)
        router.send(planes[int(request) % len(planes)], copy=False)


def run(plate: str, *names: str) -> None:
    """Serve as many viewers as there are names; for each line that comes run a plate on one core and show it to one."""
    pin(0)
    import cv2

    from benchmarks.pipelines import PIPELINES
    from openhcs_jupyter import compile, discover
    from openhcs_jupyter import run as begin
    from openhcs_jupyter.repository.embedded import EmbeddedRepository
    from openhcs_jupyter.streaming import StreamServer
    from openhcs_jupyter.streaming.keys import new_keys

    cv2.setNumThreads(1)
    place = Path(tempfile.mkdtemp(prefix="streaming-", dir=SCRATCH / "work"))
    repository = EmbeddedRepository(place)
    found = repository.plate(repository.import_plate(plate).id)
    servers = {name: StreamServer(place / name, name=name, host="127.0.0.1", port=0, keys=new_keys()) for name in names}
    for server in servers.values():
        server.start()
    answer(ready=True, folder=str(place), files={name: str(one.connection_file) for name, one in servers.items()})
    for line in sys.stdin:
        show = json.loads(line)["show"]
        plan = compile(PIPELINES["standard"](found), found, discover(), workers=1)
        start, used, served = time.perf_counter(), cpu_seconds(), _serving_seconds()
        started = begin(plan, force=True)
        if show in servers:
            servers[show].show(started.folder)
        started.result()
        took = time.perf_counter() - start
        answer(
            seconds=took,
            cpu=cpu_seconds() - used,
            serving=_serving_seconds() - served,
            folder=str(started.folder),
            viewers={name: one.viewers for name, one in servers.items()},
        )
    for server in servers.values():
        server.close()


def _serving_seconds() -> float:
    """Return the CPU that this process's threads have used that serve viewers, ZeroMQ's own included."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    seconds = 0.0
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name)) or (task / "comm").read_text()
        if name == "openhcs-stream" or name.startswith("ZMQbg"):
            seconds += int((task / "schedstat").read_text().split()[0]) / 1e9
    return seconds


def watch(file: str) -> None:
    """View all that a kernel announces, on another core; for each line that comes, answer with what arrived since."""
    pin(1)
    from openhcs_jupyter.streaming import PlaneRequest, open_source
    from openhcs_jupyter.streaming.layers import Progressed, StackReady
    from openhcs_jupyter.streaming.source import Plane

    arrived: dict[tuple[str, int, int, int], float] = {}
    ended: set[str] = set()
    wanted = 0
    news = threading.Condition()

    def hear(a: object) -> None:
        nonlocal wanted
        if isinstance(a, StackReady):
            wanted += 1
            request = PlaneRequest(run=a.run, layer=a.layer, well=a.well, field=a.field, t=0, z=0)
            key = (a.run, a.layer, a.well, a.field)
            source.fetch(request).add_done_callback(lambda future: note(key, future.result()))
        elif isinstance(a, Progressed) and a.status != "running":
            with news:
                ended.add(a.run)
                news.notify()

    def note(key: tuple[str, int, int, int], plane: Plane) -> None:
        plane.array.max()
        with news:
            arrived[key] = time.time()
            news.notify()

    with open_source(file) as source:
        source.subscribe(hear)
        answer(ready=True)
        for line in sys.stdin:
            run = json.loads(line)["run"]
            with news:
                news.wait_for(lambda run=run: run in ended and len(arrived) >= wanted, 120)
            answer(arrived=[[*key[1:], at] for key, at in arrived.items() if key[0] == run])


def fetch(file: str, control: str, news: str) -> None:
    """Over a given address: for each line that comes ask for a plane coarse and in full; answer with both times."""
    from openhcs_jupyter.streaming import PlaneRequest, RemoteSource
    from openhcs_jupyter.streaming.keys import ConnectionFile, Endpoint, read_private
    from openhcs_jupyter.streaming.layers import StackReady

    found = read_private(Path(file), ConnectionFile)
    endpoint = Endpoint(control=control, news=news)
    stacks: list[StackReady] = []
    there = threading.Semaphore(0)

    def hear(a: object) -> None:
        if isinstance(a, StackReady):
            stacks.append(a)
            there.release()

    with RemoteSource(endpoint, server_key=found.server_key, keys=found.viewer, mapping=False) as source:
        source.subscribe(hear)
        there.acquire()
        answer(ready=True)
        for number, _ in enumerate(sys.stdin):
            a = stacks[number % len(stacks)]
            place = {"run": a.run, "layer": a.layer, "well": a.well, "field": a.field, "t": 0, "z": 0}
            start = time.perf_counter()
            coarse, full = (source.fetch(PlaneRequest(**place, coarse=small)) for small in (True, False))
            took = [arrival(coarse), arrival(full)]
            shapes = [future.result(60).array.shape for future in (coarse, full)]
            assert shapes == [(SIDE // 8, SIDE // 8), (SIDE, SIDE)]
            answer(coarse=took[0].get() - start, full=took[1].get() - start)


def arrival(future: Any) -> Any:
    """Return a queue that gets the time at which a future is answered."""
    times: queue.Queue[float] = queue.Queue()
    future.add_done_callback(lambda _: times.put(time.perf_counter()))
    return times


def gush(port: str) -> None:
    """Send a raw plane to whoever connects: what the link itself takes."""
    import socket

    plane = camera_plane(0).tobytes()
    with socket.create_server(("", int(port))) as server:
        answer(ready=True)
        for _ in sys.stdin:
            connection, _ = server.accept()
            with connection:
                connection.recv(1)
                connection.sendall(plane)
                connection.recv(1)
            answer(sent=True)


def drink(port: str) -> None:
    """Take a raw plane for each line that comes, and answer with the time from asking until all of it is there."""
    import socket

    answer(ready=True)
    for _ in sys.stdin:
        with socket.create_connection(("127.0.0.1", int(port))) as connection:
            start = time.perf_counter()
            connection.send(b"?")
            left = SIDE * SIDE * 2
            while left:
                left -= len(connection.recv(1 << 20))
            answer(seconds=time.perf_counter() - start)
            connection.send(b"!")


def peer(role: str, port: str) -> None:
    """OpenHCS's own way to a viewer on one machine, without a window: its backend, and how its viewer receives."""
    import zmq

    context: Any = zmq.Context()
    if role == "viewer":
        from polystore.streaming._streaming_backend import StreamingSharedMemoryAuthority  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it

        replier = context.socket(zmq.REP)
        replier.bind(f"tcp://127.0.0.1:{port}")
        answer(ready=True)
        while True:
            message = replier.recv_json()
            if message == "end":
                return
            for image in message["images"]:
                StreamingSharedMemoryAuthority.copy_sender_owned_array(
                    name=image["shm_name"], shape=image["shape"], dtype=image["dtype"]
                ).max()
            replier.send_json({"status": "success"})
    backend, request = _peer_backend(int(port))
    planes = [camera_plane(seed) for seed in range(AHEAD)]
    answer(ready=True)
    for line in sys.stdin:
        count = json.loads(line)["count"]
        start = time.perf_counter()
        for number in range(count):
            backend.save_batch([planes[number % AHEAD]], [f"A01_s001_w1_z{number}.tif"], stream_request=request)
        answer(seconds=time.perf_counter() - start)


def _peer_backend(port: int) -> tuple[Any, Any]:
    """Make OpenHCS's streaming backend with the least that its interface asks for."""
    import logging

    logging.disable(logging.WARNING)
    from polystore.napari_stream import NapariStreamingBackend  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from polystore.streaming import viewer_transport as vt  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from polystore.streaming.identity import StreamProducerIdentity  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from zmqruntime.config import TransportMode  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it
    from zmqruntime.viewer_protocol import ViewerTransportEndpoint  # type: ignore[import-not-found,unused-ignore]  # the peer's environment has it

    class Display(vt.ViewerDisplayConfigABC):  # type: ignore[misc,unused-ignore]  # the peer's environment has it
        COMPONENT_ORDER = ("well", "site", "channel", "z_index")

        def component_modes(self) -> dict[str, str]:
            return dict.fromkeys(self.COMPONENT_ORDER, "stack")

        def display_payload_extra(self) -> dict[str, str]:
            return {"colormap": "gray"}

    place = {"well": "A01", "site": 1, "channel": 1, "z_index": 1}
    request = vt.ViewerStreamRequest(
        viewer_transport=ViewerTransportEndpoint(host="localhost", port=port, transport_mode=TransportMode.TCP),
        display_config=Display(),
        source=vt.ViewerStreamSource(
            identity=vt.ViewerStreamSourceIdentity(microscope_handler=None, plate_path=None),
            metadata=vt.BatchViewerStreamSourceMetadata(component_metadata=place),
        ),
        producer=vt.ViewerStreamProducer.from_identity(
            StreamProducerIdentity(origin="pipeline", output_kind="main", output_key="o", projection_key="p")
        ),
    )
    return NapariStreamingBackend(), request


if __name__ == "__main__":
    pin_threads()
    (SCRATCH / "work").mkdir(parents=True, exist_ok=True)
    programs = (kernel, bare, run, watch, fetch, gush, drink, peer)
    {program.__name__: program for program in programs}[sys.argv[1]](*sys.argv[2:])
