"""What a job costs beside a run in the kernel: its start, its messages, its restart; and how owners share a server."""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.faults import Kernel
from benchmarks.payload import payload_figures
from benchmarks.plates import WELLS_16, PlateShape, plate_folder
from benchmarks.processes import environment
from benchmarks.report import median_ratio, report
from openhcs_jupyter.events import UnitDone
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import ENDED
from openhcs_jupyter.server.processes import seats
from tests.server.serving import Client, ServerProcess, payload, until
from tests.server.simulation import Job, simulate

GOALS = {
    "submit_to_first_unit_cold": ("<=", 1.5),
    "submit_to_first_unit_warm": ("<=", 0.2),
    "round_trip_ms_p95": ("<=", 20),
    "job_vs_kernel": ("<=", 1.03),
    "restart_seconds_1000_jobs": ("<=", 2),
    "fairness": (">=", 0.9),
}

_SMALL = PlateShape(wells=4, sites=1, channels=2, z=2, size=256)
_CELL = """
pipeline_steps = [
    Step({{
        "W1": [(percentile_normalize, {{"low": 1.0, "high": 99.0}}), (gaussian_blur, {{"sigma": {sigma}}})],
        "W2": [(percentile_normalize, {{"low": 1.0, "high": 99.0}}), (top_hat, {{"radius": 20, "downsample": 4}})],
    }}),
    Step(max_projection),
    Step(composite, stack="channel", save=True),
]
"""
_BARE = """
import numpy as np
from openhcs_jupyter.functions import composite, gaussian_blur, max_projection, percentile_normalize, top_hat
stack = np.ones((2, 64, 64), np.uint16)
for function in (composite, gaussian_blur, max_projection, percentile_normalize, top_hat):
    function(stack)
"""
"""Functions import their libraries when they are called; a process that only names them could do nothing."""
_MORE = '    Step(gaussian_blur, {"sigma": 3}),\n' * 4
"""A run of some twenty seconds, as short runs are nobody's jobs."""
_CLIENTS = 100
_LONG_CELL = "import time\ntime.sleep(600)\npipeline_steps = []"


@contextmanager
def server(folder: Path, shape: PlateShape, *options: str) -> Iterator[ServerProcess]:
    """Serve a repository with one plate."""
    with EmbeddedRepository(folder / "repository") as repository:
        if not repository.plates():
            repository.import_plate(plate_folder(shape))
        uri = repository.uri
    made = ServerProcess(folder / "server", "--repository", uri, "--park", *options, **environment())
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.stop()
        made.close()


def starts(folder: Path, repeats: int) -> dict[str, float]:
    """Time from handing in a job to its first finished unit: with a process that is ready, and with nothing at all."""
    config = folder / "cold.toml"
    config.write_text("warm = false\n")
    bare, taken = [], {"cold": [], "warm": []}
    with ExitStack() as stack:
        servers = {
            "cold": stack.enter_context(server(folder / "cold", _SMALL, "--config", str(config))),
            "warm": stack.enter_context(server(folder / "warm", _SMALL)),
        }
        clients = {name: one.client() for name, one in servers.items()}
        for name, client in clients.items():
            client.watch(client.hello(servers[name].token))
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", _BARE], env=environment(), check=True)
            bare_s = time.perf_counter() - start
            seconds = {}
            for name, client in clients.items():
                _is_ready(servers["warm"])
                seconds[name] = _first_unit(client, _CELL.format(sigma=1 + repeat / 1000))
            if repeat:
                bare.append(bare_s)
                for name, value in seconds.items():
                    taken[name].append(value)
    return {
        "submit_to_first_unit_cold": median_ratio(taken["cold"], bare),
        "submit_to_first_unit_warm": median_ratio(taken["warm"], bare),
        "first_unit_warm_seconds": statistics.median(taken["warm"]),
        "bare_process_seconds": statistics.median(bare),
    }


def _is_ready(one: ServerProcess) -> None:
    """Wait until the process for the next job, those for its workers, and that which forks them rest."""
    mark = (one.state / "mark").read_text()

    def rests() -> bool:
        pids = [pid for pid, seat in seats() if seat.startswith(mark)]
        before = {pid: _cpu(pid) for pid in pids}
        time.sleep(0.5)  # the time in which they are to rest
        return len(pids) > 3 and all(_cpu(pid) == used for pid, used in before.items())

    until(rests)


def _cpu(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])


def _first_unit(client: Client, cell: str) -> float:
    start = time.perf_counter()
    job = client.submit(payload(cell)).id
    seconds = 0.0
    while True:
        assert client.news.poll(60_000), "nothing is heard of the job"
        news = p.read_news(client.news.recv_multipart())
        if news.job != job:
            continue
        if not seconds and any(isinstance(one.event, UnitDone) for one in news.events):
            seconds = time.perf_counter() - start
        if news.state in ENDED:
            assert news.state == "done", client.job(job).message
            return seconds


def round_trips(folder: Path, repeats: int) -> dict[str, float]:
    """Time submit, status and cancel with many clients connected, while a job runs."""
    seconds = []
    dice = random.Random(1)
    with server(folder / "many", _SMALL, "--max-workers", "1") as one:
        clients = [one.client() for _ in range(_CLIENTS)]
        busy = clients[0].submit(payload(_LONG_CELL, "busy")).id
        clients[0].wait(busy, "compiling")
        for _ in range(repeats):
            client = dice.choice(clients)
            start = time.perf_counter()
            job = client.submit(payload(_CELL.format(sigma=1))).id
            submitted = time.perf_counter()
            client.job(job)
            seen = time.perf_counter()
            client.ask(p.Cancel, job=job)
            seconds += [submitted - start, seen - submitted, time.perf_counter() - seen]
        clients[0].ask(p.Cancel, job=busy)
    return {
        "round_trip_ms_p95": statistics.quantiles(seconds, n=20)[-1] * 1000,
        "round_trip_ms_p50": statistics.median(seconds) * 1000,
    }


def beside_a_kernel(folder: Path, repeats: int) -> dict[str, float]:
    """Time the same run as a job and as a cell of a kernel, in turn."""
    taken: dict[str, list[float]] = {"job": [], "kernel": []}
    with server(folder / "beside", WELLS_16) as one:
        client = one.client()
        client.watch(client.hello(one.token))
        with Kernel(folder / "beside" / "repository") as kernel:
            for repeat in range(repeats + 1):
                cell = _CELL.format(sigma=1).replace("    Step(max", _MORE + "    Step(max")
                _is_ready(one)  # what gets ready for the next job must not take cores from the kernel
                start = time.perf_counter()
                kernel.run(f"%%openhcs nuclei --force --quiet --workers 2{cell}")
                kernel_s = time.perf_counter() - start
                _is_ready(one)
                start = time.perf_counter()
                job = client.submit(payload(cell, force=True, workers=2)).id
                _ended(client, job)
                if repeat:
                    taken["kernel"].append(kernel_s)
                    taken["job"].append(time.perf_counter() - start)
    return {
        "job_vs_kernel": median_ratio(taken["job"], taken["kernel"]),
        "job_seconds": statistics.median(taken["job"]),
    }


def _ended(client: Client, job: str) -> None:
    while True:
        assert client.news.poll(120_000), "nothing is heard of the job"
        news = p.read_news(client.news.recv_multipart())
        if news.job == job and news.state in ENDED:
            assert news.state == "done", client.job(job).message
            return


def restarts(folder: Path, repeats: int) -> dict[str, float]:
    """Time from the start of a server with 1,000 queued jobs to its first answer about them."""
    seconds = []
    with server(folder / "again", _SMALL, "--max-workers", "1") as one:
        client = one.client()
        busy = client.submit(payload(_LONG_CELL, "busy")).id
        client.wait(busy, "compiling")
        for _ in range(1000):
            client.submit(payload(_CELL.format(sigma=1)))
        for _ in range(repeats):
            one.kill()
            start = time.perf_counter()
            one.start()
            client = one.client()
            found = client.ask(p.GetServer)
            seconds.append(time.perf_counter() - start)
            assert (found.queued, found.active) == (1000, 1), found
        client.ask(p.Cancel, job=busy)
    return {"restart_seconds_1000_jobs": statistics.median(seconds)}


def fairness() -> dict[str, float]:
    """Simulate four hours of five owners whose jobs differ in length, width and number."""
    dice = random.Random(6)
    jobs = []
    for owner, (count, seconds, width) in {
        "many-short": (8000, 20, 1),
        "few-long": (150, 1800, 2),
        "wide": (300, 240, 8),
        "mixed": (500, 300, 3),
        "greedy": (2000, 60, 4),
    }.items():
        times = [(dice.uniform(0, 600), dice.expovariate(1 / seconds)) for _ in range(count)]
        jobs += [Job(owner, submitted, length, dice.randint(1, width)) for submitted, length in times]
    used = simulate(jobs, cores=16, until=14_400)
    return {"fairness": min(used.values()) / max(used.values())}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parts = ("starts", "round-trips", "beside-a-kernel", "restarts", "fairness", "payload")
    parser.add_argument("--only", action="append", choices=parts)
    options = parser.parse_args()
    repeats: int = options.repeats
    folder = Path(tempfile.mkdtemp(prefix="openhcs-server-"))
    measures: dict[str, Callable[[], dict[str, float]]] = {
        "starts": lambda: starts(folder, repeats),
        "round-trips": lambda: round_trips(folder, 60 * repeats),
        "beside-a-kernel": lambda: beside_a_kernel(folder, max(2, repeats // 2)),
        "restarts": lambda: restarts(folder, 3),
        "fairness": fairness,
        "payload": payload_figures,
    }
    figures: dict[str, float] = {}
    try:
        for part in options.only or parts:
            figures |= measures[part]()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report("server", figures, {name: goal for name, goal in GOALS.items() if name in figures})


if __name__ == "__main__":
    main()
