"""What becomes of jobs when the server, a job or a disk fails, and of jobs that take more than they may."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import new_key
from openhcs_jupyter.server.processes import ProcessId, of_seat, process_id, seats, send
from openhcs_jupyter.server.queue import Queue
from tests.server.conftest import CORES
from tests.server.serving import SLOW, Client, ServerProcess, computed, finished, payload, running, until

HUNGRY = """
import time
kept = pipeline_steps = []
while True:
    kept.append(bytearray(b"x" * 20_000_000))
    time.sleep(0.01)
"""
FORKING = """
import os, time
pipeline_steps = []
while True:
    os.fork() or time.sleep(60)
"""


IDLE = 2
"""Processes that are there without a job: one that is ready for the next, and that from which it comes."""


def _process(server: ServerProcess, job: str) -> ProcessId:
    """Return the process of a job, as the server's own memory has it."""
    queue = Queue(server.state / "queue.db")
    found = queue.find(job)
    queue.close()
    assert found is not None
    return ProcessId(found.pid, found.pid_start, found.boot)


def _cell(number: object) -> str:
    """Return eight units that no other job has made before."""
    return SLOW.replace("0.15", f"0.1{number}")


def test_jobs_live_through_the_servers_death(server: ServerProcess) -> None:
    client = server.client()
    first = client.submit(payload(_cell(1), workers=CORES))
    queued = client.submit(payload(_cell(2), "queued", workers=CORES))
    until(lambda: client.job(first.id).done >= 1)
    process = _process(server, first.id)
    assert process_id(process.pid) == process
    server.kill()
    server.start()
    client = server.client()
    # It is the same process, which knows nothing of the server's death.
    done = client.wait(first.id)
    assert (done.state, done.done, done.attempts) == ("done", 8, 1)
    assert client.wait(queued.id).state == "done"
    assert computed(client.events(first.id)) == list(range(8))
    assert process_id(process.pid) != process


def test_a_job_that_died_with_the_server_goes_on_where_it_stopped(server: ServerProcess) -> None:
    client = server.client()
    job = client.submit(payload(_cell(3)))
    until(lambda: client.job(job.id).done >= 2)
    server.kill()
    send(_process(server, job.id), signal.SIGKILL)
    server.start()
    client = server.client()
    done = client.wait(job.id)
    assert (done.state, done.done, done.attempts) == ("done", 8, 2)
    assert len(computed(client.events(job.id))) == len(set(computed(client.events(job.id))))
    assert finished(client.events(job.id)) == set(range(8))


@pytest.mark.parametrize("victim", ["server", "job"])
def test_no_job_is_lost_doubled_or_computed_twice(
    server: ServerProcess, victim: str, request: pytest.FixtureRequest
) -> None:
    dice = random.Random(request.node.name)
    client = server.client()
    keys = {new_key(): payload(_cell(f"{len(victim)}5{number}"), f"{victim}{number}") for number in range(3)}
    jobs = {key: client.submit(one, key=key).id for key, one in keys.items()}
    for _ in range(5):
        wanted = min(20, dice.randint(1, 4) + _done(client, jobs.values()))
        until(partial(_has_done, client, jobs.values(), wanted))
        if victim == "job":
            for pid in [pid for seat in server.seats() for pid in list(of_seat(seat))[:1]]:
                _kill_quietly(pid)
        else:
            server.kill()
            server.start()
            client = server.client()
            # A client that was cut off sends again what it is not sure about.
            assert {key: client.submit(one, key=key).id for key, one in keys.items()} == jobs
    for job in jobs.values():
        assert client.wait(job).state == "done", client.log(job)
        events = client.events(job)
        assert len(computed(events)) == len(set(computed(events)))
        assert finished(events) == set(range(8))
    assert sum(job.name.startswith(victim) for job in client.ask(p.ListJobs).jobs) == len(jobs)
    until(lambda: len(server.seats()) <= IDLE)


def _done(client: Client, jobs: Iterable[str]) -> int:
    return sum(client.job(job).done for job in jobs)


def _has_done(client: Client, jobs: Iterable[str], wanted: int) -> bool:
    return _done(client, jobs) >= wanted


def _kill_quietly(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_cell_that_ends_its_process_is_given_up(server: ServerProcess) -> None:
    client = server.client()
    job = client.submit(payload("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\npipeline_steps = []"))
    failed = client.wait(job.id, "failed", patience_s=90)
    assert "without a word" in failed.message


def test_a_process_that_does_not_begin_with_its_job_loses_it_to_another(server: ServerProcess) -> None:
    client = server.client()
    assert client.wait(client.submit(payload(_cell(4))).id).state == "done"
    nursery, waiting = until(lambda: _without_a_job(server))
    for pid in of_seat(waiting):
        os.kill(pid, signal.SIGSTOP)
    job = client.submit(payload(_cell(5)))
    until(lambda: client.job(job.id).state == "compiling")
    assert _process(server, job.id).pid in set(of_seat(waiting))
    done = client.wait(job.id, patience_s=90)
    assert (done.state, done.done, done.attempts) == ("done", 8, 2)
    assert set(server.seats()) >= {nursery}
    assert not list(of_seat(waiting))


def _without_a_job(server: ServerProcess) -> list[str] | None:
    """Return the marks of the process that forks others and of the one that is ready, when there are just these."""
    first = {mark: min(p.start for p in map(process_id, of_seat(mark)) if p) for mark in set(server.seats())}
    return sorted(first, key=first.__getitem__) if len(first) == IDLE else None


def test_where_a_process_crashed_is_in_its_log(server: ServerProcess) -> None:
    client = server.client()
    job = client.submit(payload("import ctypes\nctypes.string_at(0)\npipeline_steps = []"))
    assert "without a word" in client.wait(job.id, "failed", patience_s=90).message
    log = client.log(job.id)
    assert "Segmentation fault" in log
    assert "string_at" in log


def test_a_job_leaves_nothing_behind(server: ServerProcess) -> None:
    client = server.client()
    cell = """
import subprocess
subprocess.Popen(["sleep", "600"], start_new_session=True)
pipeline_steps = [Step(max_projection)]
"""
    assert client.wait(client.submit(payload(cell)).id).state == "done"
    assert not [pid for pid, _ in _sleeping(server)]


def _sleeping(server: ServerProcess) -> list[tuple[int, str]]:
    own = server.seats()
    return [
        (pid, seat) for pid, seat in seats() if seat in own and b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory, plates: EmbeddedRepository) -> Iterator[ServerProcess]:
    """Return a server that allows little."""
    folder = tmp_path_factory.mktemp("strict")
    settings = folder / "server.toml"
    settings.write_text("[limits]\nmemory_gb = 0.8\nprocesses = 150\nhours = 0.002\n")
    with running(folder / "server", "--repository", plates.uri, "--config", str(settings)) as made:
        yield made


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("pipeline_steps = []\nx = bytearray(4_000_000_000)", "memory"),
        (HUNGRY, "memory"),
        (FORKING, "processes"),
        ("pipeline_steps = []\nwhile True:\n    pass", "hours"),
    ],
    ids=["at-once", "bit-by-bit", "forks", "never-ends"],
)
def test_a_job_that_takes_more_than_it_may_fails_and_says_so(strict: ServerProcess, cell: str, message: str) -> None:
    client = strict.client()
    job = client.submit(payload(cell))
    failed = client.wait(job.id, "failed")
    assert message in failed.message
    # The next job is none the worse for it.
    after = client.submit(payload("pipeline_steps = [Step(max_projection)]"))
    assert client.wait(after.id).state == "done", client.job(after.id).message
    assert len(strict.seats()) <= IDLE


def test_a_stopped_server_lets_jobs_finish_or_parks_them(serve: Callable[..., ServerProcess]) -> None:
    patient = serve("--max-workers", "1")
    client = patient.client()
    first, queued = client.submit(payload(_cell(4))), client.submit(payload(_cell(5)))
    client.wait(first.id, "running")
    assert patient.stop() == 0
    patient.start()
    client = patient.client()
    assert client.job(first.id).state == "done"
    assert client.job(first.id).attempts == 1
    assert client.wait(queued.id).state == "done"

    hasty = serve("--park")
    client = hasty.client()
    job = client.submit(payload(_cell(6)))
    until(lambda: client.job(job.id).done >= 1)
    assert hasty.stop() == 0
    assert not hasty.seats()
    hasty.start()
    client = hasty.client()
    assert client.job(job.id).state == "parked"
    client.ask(p.Resume, job=job.id)
    assert client.wait(job.id).state == "done"
    assert computed(client.events(job.id)) == list(range(8))
