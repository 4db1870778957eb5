"""Jobs as their owner sees them: submitted, followed, stopped, taken up again."""

from __future__ import annotations

import pytest

from openhcs_jupyter.engine import load_run
from openhcs_jupyter.events import RunFinished, UnitDone
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import JobEvent, StateChanged, new_key
from tests.server.conftest import CORES
from tests.server.serving import SLOW, RefusedError, ServerProcess, computed, payload, until

CELL = """
pipeline_steps = [
    Step(max_projection),
    Step({"DAPI": (gaussian_blur, {"sigma": 1.5})}, save=True),
]
"""


def test_a_job_runs_to_its_end_and_is_the_same_run_for_everybody(
    server: ServerProcess, plates: EmbeddedRepository
) -> None:
    client = server.client()
    job = client.submit(payload(CELL))
    assert job.state == "queued"
    done = client.wait(job.id)
    assert (done.state, done.done, done.failed, done.units) == ("done", 8, 0, 8), client.log(job.id)
    run = load_run(plates, done.run)
    assert run.status == "done"
    events = client.events(job.id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert sum(isinstance(one.event, UnitDone) for one in events) == 8
    assert any(isinstance(one.event, RunFinished) for one in events)
    states = [one.event.state for one in events if isinstance(one.event, StateChanged)]
    assert states == ["queued", "compiling", "running", "done"]
    assert client.ask(p.Fetch, job=job.id, file="plan.json").data == (run.folder / "plan.json").read_bytes()


def test_an_error_of_the_cell_is_the_jobs(server: ServerProcess) -> None:
    client = server.client()
    wrong = client.wait(client.submit(payload("pipeline_steps = [Step(max_projection, {'wide': 3})]")).id, "failed")
    assert "wide" in wrong.message
    raised = client.wait(client.submit(payload("\n\nx = 1 / 0\npipeline_steps = []")).id, "failed")
    assert raised.message == "ZeroDivisionError: division by zero (line 3)"


def test_a_stranger_is_told_nothing(server: ServerProcess) -> None:
    stranger = server.stranger()
    with pytest.raises(RefusedError, match="identity"):
        stranger.ask(p.ListJobs)
    with pytest.raises(RefusedError, match="identity"):
        stranger.hello("0" * 64)
    assert not stranger.ask(p.Ping).known


def test_a_job_is_handed_in_once_however_often_it_is_sent(server: ServerProcess) -> None:
    client = server.client()
    key = new_key()
    jobs = {client.submit(payload(CELL, "once"), key=key).id for _ in range(3)}
    assert len(jobs) == 1
    assert [job.id for job in client.ask(p.ListJobs).jobs if job.name == "once"] == list(jobs)


def test_events_arrive_by_themselves_and_only_at_their_owners(server: ServerProcess) -> None:
    client, other = server.client(), server.stranger()
    welcome = client.hello(server.token)
    client.watch(welcome)
    # Somebody who knows the server's key, but not who owns what, subscribes to everything there could be.
    other.news.subscribe(b"")
    other.news.subscribe(welcome.ticket[:8])
    other.news.connect(f"tcp://{other.invitation.host}:{welcome.news_port}")
    job = client.wait(client.submit(payload(CELL)).id)
    heard: list[JobEvent] = []
    while not heard or heard[-1].number < job.events:
        assert client.news.poll(10_000)
        news = p.read_news(client.news.recv_multipart())
        heard += news.events if news.job == job.id else ()
    # What happened before the subscription was there is asked for.
    assert heard == client.events(job.id)[heard[0].number - 1 :]
    assert len(heard) > job.units
    assert not other.news.poll(300)


def test_jobs_are_stopped_parked_and_taken_up_again(server: ServerProcess) -> None:
    client = server.client()
    slow = client.submit(payload(SLOW, workers=CORES))
    waiting = client.submit(payload(SLOW, "later", workers=CORES))
    client.wait(slow.id, "running")
    assert client.job(waiting.id).ahead == 0
    assert client.ask(p.Cancel, job=waiting.id).job.state == "cancelled"
    until(lambda: client.job(slow.id).done >= 2)
    client.ask(p.Park, job=slow.id)
    parked = client.wait(slow.id, "parked")
    assert (parked.workers, parked.stopping) == (0, False)
    client.ask(p.Resume, job=slow.id)
    done = client.wait(slow.id)
    assert (done.state, done.done, done.attempts) == ("done", 8, 2)
    assert computed(client.events(slow.id)) == list(range(8))
    stopped = client.submit(payload(SLOW.replace("0.15", "0.16"), "stopped"))
    until(lambda: client.job(stopped.id).done >= 1)
    client.ask(p.Cancel, job=stopped.id)
    assert client.wait(stopped.id, "cancelled").done < 8
    assert client.ask(p.Cancel, job=done.id).job.state == "done"


def test_what_does_not_fit_the_server_is_refused_at_once(server: ServerProcess) -> None:
    client = server.client()
    for options in (
        {"workers": CORES + 1},
        {"workers": 0},
        {"device": "gpu:7"},
        {"device": "tpu"},
        {"scheduler": "local"},
    ):
        with pytest.raises(RefusedError, match="invalid"):
            client.submit(payload(CELL, **options))
    with pytest.raises(RefusedError, match="unknown"):
        client.ask(p.Cancel, job="20261122-000000-00000000")
    job = client.wait(client.submit(payload(CELL)).id)
    for file in ("../../../../etc/passwd", "/etc/passwd", "nothing.json", "units"):
        with pytest.raises(RefusedError):
            client.ask(p.Fetch, job=job.id, file=file)


def test_code_before_the_cell_is_executed_first_and_lines_are_the_users(
    server: ServerProcess,
) -> None:
    client = server.client()
    before = """
from __future__ import annotations
import numpy as np

def halved(stack: np.ndarray, by: Nothing = 2) -> np.ndarray:
    return (stack // by).astype(stack.dtype)
"""
    cell = """
def doubled(stack: Nowhere):
    return stack * 2

pipeline_steps = [Step(halved), Step(doubled), Step(broken)]
"""
    good = client.wait(client.submit(payload(cell.replace(", Step(broken)", ""), before=before)).id)
    assert good.state == "done", good.message
    bad = client.wait(client.submit(payload(cell, before=before)).id, "failed")
    assert bad.message == "NameError: name 'broken' is not defined (line 5)"
