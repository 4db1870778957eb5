"""Jobs as their owner sees them: submitted, followed, stopped, taken up again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openhcs_jupyter.engine import load_run
from openhcs_jupyter.events import RunFinished, UnitDone
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from tests.server.serving import RefusedError, ServerProcess, payload

CELL = """
pipeline_steps = [
    Step(max_projection),
    Step({"DAPI": (gaussian_blur, {"sigma": 1.5})}, save=True),
]
"""


def test_a_job_runs_to_its_end_and_is_the_same_run_for_everybody(
    serve: Callable[..., ServerProcess], plates: EmbeddedRepository
) -> None:
    client = serve().client()
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
    states = [one.event.state for one in events if isinstance(one.event, p.StateChanged)]
    assert states == ["queued", "compiling", "running", "done"]
    assert client.ask(p.Fetch, job=job.id, file="plan.json").data == (run.folder / "plan.json").read_bytes()


def test_an_error_of_the_cell_is_the_jobs(serve: Callable[..., ServerProcess]) -> None:
    client = serve().client()
    wrong = client.wait(client.submit(payload("pipeline_steps = [Step(max_projection, {'wide': 3})]")).id, "failed")
    assert "wide" in wrong.message
    raised = client.wait(client.submit(payload("\n\nx = 1 / 0\npipeline_steps = []")).id, "failed")
    assert raised.message == "ZeroDivisionError: division by zero (line 3)"


def test_a_stranger_is_told_nothing(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    stranger = server.stranger()
    with pytest.raises(RefusedError, match="identity"):
        stranger.ask(p.ListJobs)
    with pytest.raises(RefusedError, match="identity"):
        stranger.hello("0" * 64)
    assert not stranger.ask(p.Ping).known
