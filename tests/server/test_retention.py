"""Jobs that have ended are forgotten after some time, or when their owner's code fills too much."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openhcs_jupyter.server.accounts import own_account
from openhcs_jupyter.server.folders import Folders
from openhcs_jupyter.server.model import ENDED, JobState, Payload, StateChanged
from openhcs_jupyter.server.queue import Queue, Record
from openhcs_jupyter.server.retention import Retention
from openhcs_jupyter.server.settings import Quota, ServerSettings
from tests.server.serving import SLOW, RefusedError, ServerProcess, payload, until

DAY_S = 24 * 3600.0


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Folders]:
    found = Folders(tmp_path / "server", several=False)
    yield found
    found.close()


@pytest.fixture
def queue(folders: Folders) -> Iterator[Queue]:
    found = Queue(folders.queue)
    yield found
    found.close()


def add(queue: Queue, name: str, state: JobState, days: float = 0.0, owner: str = "ada", size: int = 1) -> Record:
    """Add a job that was submitted and has ended so long ago."""
    when = time.time() - days * DAY_S
    record = Record(
        id=name, key=name, owner=owner, run=name, state="queued", name=name, plate="1", submitted=when
    )  # fmt: skip
    record = queue.add(record, Payload(name=name, cell="x" * size))
    record = queue.note(record, [StateChanged(time=when, state=state)])
    return queue.change(record, state=state, ended=when if state in ENDED else None)


def names(queue: Queue) -> set[str]:
    return {record.id for record in queue.jobs(None)}


def retention(queue: Queue, folders: Folders, **how: object) -> Retention:
    return Retention(ServerSettings(**how), queue, folders, lambda _: own_account())  # type: ignore[arg-type]  # given by name


def test_jobs_that_ended_long_ago_are_forgotten_with_all_that_is_theirs(queue: Queue, folders: Folders) -> None:
    for name, state, days in [("a", "done", 40), ("b", "running", 40), ("c", "failed", 31), ("d", "cancelled", 29)]:
        add(queue, name, state, days)  # type: ignore[arg-type]  # a state, by name
    slow = add(queue, "e", "running", 50)
    queue.change(slow, state="done", ended=time.time())
    for name in "abcde":
        folder = folders.make_job(name, own_account())
        (folder / "work" / "deep").mkdir(parents=True)
        (folder / "work" / "deep" / "file").touch()
        (folder / "link").symlink_to(folders.path)
    keeps = retention(queue, folders, keep_days=30)
    keeps.sweep()
    assert names(queue) == {"b", "d", "e"}
    until(lambda: not folders.job("a").exists() and not folders.job("c").exists())
    assert (folders.job("b") / "work" / "deep" / "file").exists()
    assert queue.counts() == {"running": 1, "cancelled": 1, "done": 1}
    for table, column in (("events", "job"), ("payloads", "job")):
        rows = queue._db.execute(f"SELECT count(*) FROM {table} WHERE {column} NOT IN (SELECT number FROM jobs)")
        assert rows.fetchone() == (0,)
    again = add(queue, "a", "queued")
    assert again.number > slow.number


def test_without_a_term_nothing_is_forgotten(queue: Queue, folders: Folders) -> None:
    add(queue, "a", "done", 4000)
    retention(queue, folders, keep_days=0).sweep()
    assert names(queue) == {"a"}


_jobs = st.lists(
    st.tuples(st.sampled_from(["ada", "ben"]), st.sampled_from(["queued", "done", "failed"]), st.integers(1, 900)),
    max_size=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(jobs=_jobs, most=st.integers(1, 3000), reopened=st.booleans())
def test_an_owner_s_ended_jobs_make_room_the_first_ones_first(
    tmp_path: Path, folders: Folders, jobs: list[tuple[str, JobState, int]], most: int, reopened: bool
) -> None:
    path = tmp_path / "queue.db"
    path.unlink(missing_ok=True)
    queue = Queue(path)
    try:
        assert queue.held("ada") == 0
        sizes = {}
        for number, (owner, state, size) in enumerate(jobs):
            before = queue.held(owner)
            add(queue, f"j{number}", state, owner=owner, size=size)
            sizes[f"j{number}"] = queue.held(owner) - before
        if reopened:
            queue.close()
            queue = Queue(path)
        others = queue.held("ben")
        fits = retention(queue, folders, quota=Quota(code_gb=most / 1e9)).has_room("ada")
        mine = [(f"j{number}", state) for number, (owner, state, _) in enumerate(jobs) if owner == "ada"]
        left = [(name, state) for name, state in mine if name in names(queue)]
        assert queue.held("ada") == sum(sizes[name] for name, _ in left)
        assert queue.held("ben") == others
        gone = [name for name, _ in mine if name not in names(queue)]
        ended = [name for name, state in mine if state in ENDED]
        assert gone == ended[: len(gone)]
        assert fits == (queue.held("ada") < most)
        if gone:
            assert queue.held("ada") + sizes[gone[-1]] >= most
        if not fits:
            assert all(state == "queued" for _, state in left)
    finally:
        queue.close()


def test_a_server_whose_owner_s_code_fills_too_much_forgets_and_then_refuses(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("[quota]\ncode_gb = 0.00002\n")
    server = serve("--config", str(file), "--max-workers", "1")
    client = server.client()
    done = client.wait(client.submit(payload("pipeline_steps = [Step(max_projection)]" + "\n# code" * 2000)).id)
    assert done.state == "done"
    folder = server.state / "jobs" / done.id
    assert folder.is_dir()
    assert client.submit(payload(SLOW + "\n# code" * 2000)).state == "queued"
    assert client.job(done.id).state == "done"
    assert client.submit(payload(SLOW + "\n# more" * 1000)).state == "queued"
    with pytest.raises(RefusedError, match=r"quota: The code of .* fills 2e-05 GB"):
        client.submit(payload(SLOW))
    with pytest.raises(RefusedError, match="unknown: There is no job"):
        client.job(done.id)
    until(lambda: not folder.exists())
    assert Path(done.folder).is_dir()
