"""RemoteOrchestrator against a real server: jobs are held like runs of one's own."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.client import RemoteOrchestrator, link
from openhcs_jupyter.compiler import compile as compile_pipeline
from openhcs_jupyter.engine import run as run_here
from openhcs_jupyter.errors import CompileError, RunError, ServerError, UsageError
from openhcs_jupyter.events import RunFinished, RunStarted, UnitDone
from openhcs_jupyter.functions import gaussian_blur, max_projection
from openhcs_jupyter.pipeline import FunctionStep, Labels, Pipeline, Step, Table
from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.streaming import ListeningSource
from openhcs_jupyter.topology import discover
from tests.engine.bench import until
from tests.engine.functions import negative
from tests.server.serving import ServerProcess
from tests.streaming.heard import Heard
from tests.streaming.test_remote import free_port

Serve = Callable[..., ServerProcess]
Remote = Callable[..., RemoteOrchestrator]


def bright(stack: Any, above: int = 2000) -> Any:
    """Return where it is bright, and how much of it."""
    mask = (stack > above).astype(np.uint16)
    return stack, mask, {"area": [int(mask.sum())]}


def steps() -> list[Step]:
    offset = 7

    def shifted(stack: Any) -> Any:
        return stack + np.uint16(offset)

    return [
        Step([gaussian_blur, negative]),
        Step(shifted),
        Step(max_projection, save=True),
        Step(bright, channel="DAPI", outputs=[Labels("bright"), Table("areas")]),
    ]


def test_a_job_is_held_like_a_run_of_ones_own(
    server: ServerProcess, remote: Remote, plates: EmbeddedRepository
) -> None:
    there = remote(server).run_remote_pipeline(1, steps(), {"wells": "A01,B02"}, name="nuclei")
    plan = compile_pipeline(Pipeline(steps(), name="nuclei"), plates.plate(1), discover())
    here = run_here(plan).result()
    assert there.result() is there
    assert (there.name, there.status, there.state, there.message) == ("nuclei", "done", "done", "")
    assert there.record.plate_name == "plate"
    for well in ("A01", "B02"):
        for field in (1, 2):
            for kind, name in (("image", "max_projection"), ("labels", "bright")):
                ours, own = (getattr(run, kind)(name, well=well, field=field) for run in (there, here))
                assert np.array_equal(ours, own)
                assert ours.dtype == own.dtype
    table = here.table("areas").query("well in ['A01', 'B02']").reset_index(drop=True)
    assert there.table("areas").equals(table)
    kinds = [type(event) for event in there.events()]
    assert kinds == [RunStarted, *[UnitDone] * 4, RunFinished]
    assert there.progress.stages[0].done == there.progress.stages[0].total == 4
    with pytest.raises(RunError, match="makes no table"):
        there.table("area")


def test_what_a_cell_may_say_a_program_may_say(server: ServerProcess, remote: Remote) -> None:
    client = remote(server)
    assert client.ping()
    job = client.submit(
        "plate", [FunctionStep(func=max_projection, variable_components=["z_index"])], {"preview": "A02"}
    )
    assert [type(event).__name__ for event in client.events(job)][-1] == "StateChanged"
    assert client.result(job).plan.units[0].well == "A02"
    assert client.get_status(job).state == "done"
    assert client.jobs()[0].id == job
    assert client.server().jobs["done"] >= 1
    with pytest.raises(UsageError, match="no option 'well'"):
        client.submit(1, [Step(max_projection)], {"well": "A01"})
    with pytest.raises(ServerError, match="There is no job 4711"):
        client.attach("4711")


def test_what_does_not_fit_the_plate_is_told(server: ServerProcess, remote: Remote) -> None:
    run = remote(server).run_remote_pipeline(1, [Step(max_projection, channel="RFP"), Step(gaussian_blur, {"sigm": 1})])
    with pytest.raises(CompileError) as caught:
        run.result()
    assert [problem.line for problem in caught.value.problems] == [2, 3]
    assert "'RFP'" in str(caught.value)
    assert "'sigm'" in str(caught.value)
    assert run.status == "failed"
    with pytest.raises(CompileError, match="RFP"):
        run.plan.units  # noqa: B018 - asking is what raises


def test_a_dry_run_waits_for_nobody_and_makes_nothing(
    server: ServerProcess, remote: Remote, plates: EmbeddedRepository, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    client = remote(server)
    busy = client.run_remote_pipeline(1, [Step(held, {"gate": str(gate)}), Step(max_projection)])
    until(lambda: busy.progress.stages and client.get_status(busy.id).done >= 6, "all that is not held")
    assert client.server().cores_leased == client.server().cores
    runs = set(plates.runs_folder.iterdir())
    run = client.run_remote_pipeline(1, steps(), {"dry_run": True, "wells": "A01,B02"}, name="nuclei").result()
    here = compile_pipeline(Pipeline(steps(), name="nuclei"), plates.plate(1), discover())
    assert (run.state, run.job.done, run.summary()) == ("done", 0, f"Run nuclei (job {run.id}) is done")
    assert {unit.well for unit in run.plan.units} == {"A01", "B02"}
    assert [(stage.name, stage.scope) for stage in run.plan.stages] == [(one.name, one.scope) for one in here.stages]
    assert run.plan.memory.workers == client.server().cores  # what a job gets that is alone
    assert set(plates.runs_folder.iterdir()) == runs
    with pytest.raises(RunError, match="was a dry run, which makes no results"):
        run.table("areas")
    wrong = client.run_remote_pipeline(1, [Step(max_projection, channel="RFP")], {"dry_run": True})
    with pytest.raises(CompileError, match="RFP"):
        wrong.result()
    assert busy.status == "running"
    gate.touch()
    assert busy.result().status == "done"


def test_a_closure_over_an_array_never_leaves_the_laptop(server: ServerProcess, remote: Remote) -> None:
    kernel = np.ones((3, 3))
    client = remote(server)

    before = client.jobs()

    def weighted(stack: Any) -> Any:
        return stack @ kernel

    with pytest.raises(CompileError, match=r"step 'weighted': .* whose 'kernel' is an array of float64, 3 x 3"):
        client.submit(1, [Step(weighted)])
    assert client.jobs() == before


def held(stack: Any, gate: str, context: Any) -> Any:
    """Give well B02 back when a file is there, and all others at once."""
    end = time.monotonic() + 60
    while context.well == "B02" and not Path(gate).exists() and time.monotonic() < end:
        time.sleep(0.005)
    return stack


def test_a_viewer_that_listens_shows_a_job_while_it_runs(server: ServerProcess, remote: Remote, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pipeline = [Step(held, {"gate": str(gate)}), Step(max_projection, save=True)]
    with ListeningSource("127.0.0.1", free_port(), called="127.0.0.1", folder=tmp_path, mapping=False) as source:
        heard = Heard(source)
        line = source.invitation.line()
        run = remote(server).run_remote_pipeline(1, pipeline, {"wells": "A01,B02"}, viewer_host=line, name="seen")
        until(lambda: len(heard.stacks()) == 4, "the results of the first well")
        for ready in heard.stacks().values():
            layer, well = heard.view().layers[ready.layer], heard.view().wells[ready.well].name
            assert well == "A01"
            ours = run.image("max_projection", well=well, field=heard.view().fields[ready.field])
            channel = next(s for s in run.plan.results if s.name == "max_projection").channels.index(layer.channel)
            assert np.array_equal(heard.plane(ready), ours[0, channel, 0])
        assert run.status == "running"
        gate.touch()
        until(lambda: len(heard.stacks()) == 8, "the results of the second well")
        heard.until_ended()
        assert all(heard.plane(ready).any() for ready in heard.stacks().values())  # also those that came last
        assert run.result().status == "done"
        late = tmp_path / "late"
        late.mkdir(mode=0o700)
        with ListeningSource("127.0.0.1", free_port(), called="127.0.0.1", folder=late, mapping=False) as second:
            remote(server).view(run.id, second.invitation.line())
            heard = Heard(second)
            until(lambda: len(heard.stacks()) == 8, "all results")
            assert all(heard.plane(ready).any() for ready in heard.stacks().values())
        remote(server).cancel(run.id)


def test_a_wrong_key_a_wrong_token_and_nobody_there_are_told_apart(
    server: ServerProcess, serve: Serve, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "FIRST_PATIENCE_S", 3.0)

    other = serve()
    for values, said in (
        ({"key": other.invitation.key}, "does not have the key that the profile lab names"),
        ({"token": other.token}, "The token is not one of this server"),
    ):
        with pytest.raises(ServerError, match=said):
            remote(server, **values).jobs()
    other.kill()
    with pytest.raises(ServerError, match=r"cannot be reached at 127\.0\.0\.1"):
        remote(other).jobs()
    assert not remote(other).ping()
