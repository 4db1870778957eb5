"""Jobs in viewers: while they go on, after their end, and through what happens to the server."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.model import Job
from openhcs_jupyter.server.processes import of_seat, send
from openhcs_jupyter.server.queue import Queue
from openhcs_jupyter.server.shows import Show
from openhcs_jupyter.streaming import ListeningSource, RemoteSource
from openhcs_jupyter.streaming.follower import Follower
from openhcs_jupyter.streaming.planes import Reader
from tests.server.serving import SLOW, Client, RefusedError, ServerProcess, payload, running, until
from tests.server.test_faults import IDLE
from tests.streaming.heard import Heard
from tests.streaming.test_remote import free_port

Window = Callable[[], Heard]
SHOWN = 2
STACKS = 16
"""Of four wells, two fields, two channels."""
IDLE_MINUTES = 0.1
KEPT = """
pipeline_steps = [Step(max_projection, save=True)]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, plates: EmbeddedRepository) -> Iterator[ServerProcess]:
    """Return a server that shows few jobs at a time, and not for long."""
    folder = tmp_path_factory.mktemp("shows")
    settings = folder / "server.toml"
    settings.write_text(f"show_minutes = {IDLE_MINUTES}\n[quota]\nshown = {SHOWN}\n")
    with running(folder / "server", "--repository", plates.uri, "--config", str(settings)) as made:
        yield made


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    """Return a function that makes a viewer which listens, as if it were on another machine."""
    with ExitStack() as stack:
        numbers = iter(range(10))

        def listen() -> Heard:
            folder = tmp_path / f"viewer{next(numbers)}"
            folder.mkdir(mode=0o700)
            source = ListeningSource("127.0.0.1", free_port(), called="127.0.0.1", folder=folder, mapping=False)
            return Heard(stack.enter_context(source))

        yield listen


@pytest.fixture
def done(server: ServerProcess) -> Job:
    """Return a job that has ended, and that nobody sees."""
    return _done(server.client())


def _done(client: Client) -> Job:
    return client.wait(client.submit(payload(KEPT)).id, "done")


def _view(client: Client, job: Job, heard: Heard) -> p.Shown:
    shown = client.ask(p.View, job=job.id, viewer=heard.source.invitation.line())
    until(lambda: len(heard.stacks()) == STACKS, 20)
    _sees(job, heard)
    return shown


def _sees(job: Job, heard: Heard) -> None:
    """Make sure that a viewer gets every plane, all of which it asks for anew."""
    reader = Reader()
    view = Follower(Path(job.folder)).view
    for ready in heard.stacks(view.id).values():
        assert (heard.plane(ready) == reader.plane(job.folder, ready, 0, 0)).all()


def _shows(server: ServerProcess) -> dict[str, Show]:
    """Return what the server's own memory has of jobs that are shown."""
    queue = Queue(server.state / "queue.db")
    found = [msgspec.msgpack.decode(body, type=Show) for body in queue.shows()]
    queue.close()
    return {show.job: show for show in found if show.seat}


def _is_quiet(server: ServerProcess) -> bool:
    return not _shows(server) and len(server.seats()) <= IDLE


def test_a_window_that_saw_the_job_asks_on_when_it_has_ended(server: ServerProcess, window: Window) -> None:
    heard, client = window(), server.client()
    wanted = msgspec.structs.replace(payload(KEPT), viewers=(heard.source.invitation.line(),))
    job = client.wait(client.submit(wanted).id, "done")
    until(lambda: len(heard.stacks()) == STACKS, 20)
    until(lambda: len(server.seats()) <= IDLE + 1)  # the job's own process has gone
    _sees(job, heard)
    assert client.ask(p.GetServer).shown == 1
    heard.source.close()
    until(lambda: _is_quiet(server))


def test_a_viewer_that_comes_late_sees_all_and_the_job_may_be_shown_no_longer(
    server: ServerProcess, done: Job, window: Window
) -> None:
    client = server.client()
    first, second = window(), window()
    shown = _view(client, done, first)
    _view(client, done, second)  # by the same process
    assert list(_shows(server)) == [done.id]
    account, _, file = shown.file.partition(":")
    assert "@" in account
    with RemoteSource.of(Path(file)) as source:
        third = Heard(source)
        until(lambda: len(third.stacks()) == STACKS, 20)
        _sees(done, third)
    _sees(done, first)
    assert client.ask(p.Cancel, job=done.id).job.state == "done"
    assert _is_quiet(server)


def test_a_job_is_shown_that_was_asked_for_before_it_was_compiled(server: ServerProcess, window: Window) -> None:
    heard, client = window(), server.client()
    job = client.submit(payload(SLOW.replace("Step(slowly)", "Step(slowly, save=True)").replace("0.15", "0.11")))
    client.ask(p.View, job=job.id, viewer=heard.source.invitation.line())
    until(lambda: heard.stacks())
    assert client.job(job.id).state == "running"
    heard.until_ended()
    _sees(client.wait(job.id, "done"), heard)
    client.ask(p.Cancel, job=job.id)


def test_windows_live_through_the_servers_death_and_not_through_its_stop(
    server: ServerProcess, done: Job, window: Window
) -> None:
    heard = window()
    _view(server.client(), done, heard)
    before = _shows(server)[done.id]
    server.kill()
    _sees(done, heard)
    server.start()
    client = server.client()
    _view(client, done, heard)
    assert _shows(server)[done.id].process == before.process
    assert list(of_seat(before.seat)) == [before.process.pid]
    # One that dies is forgotten, and made anew for who asks.
    send(before.process, signal.SIGKILL)
    until(lambda: not _shows(server))
    _view(client, done, heard)
    assert server.stop() == 0
    until(lambda: not server.seats(), 5)
    server.start()
    client = server.client()
    assert client.ask(p.GetServer).shown == 0


def test_an_owner_has_so_many_at_a_time(server: ServerProcess, window: Window) -> None:
    client, heard = server.client(), window()
    jobs = [_done(client) for _ in range(SHOWN + 1)]
    for job in jobs:
        client.ask(p.View, job=job.id, viewer=heard.source.invitation.line())
        heard.source.invite()
    assert list(_shows(server)) == [job.id for job in jobs[1:]]
    assert len(server.seats()) <= IDLE + SHOWN
    for job in jobs:
        client.ask(p.Cancel, job=job.id)


def test_what_cannot_be_shown_is_told(server: ServerProcess, done: Job) -> None:
    client = server.client()
    for request, said in (
        ({"job": done.id, "viewer": "tcp://laptop"}, "invalid"),
        ({"job": "4711"}, "no job 4711"),
        ({"job": client.wait(client.submit(payload(KEPT, dry_run=True)).id, "done").id}, "nothing to see"),
        ({"job": client.wait(client.submit(payload("pipeline_steps = 3")).id, "failed").id}, "before it was compiled"),
    ):
        with pytest.raises(RefusedError, match=said):
            client.ask(p.View, **request)
    with pytest.raises(RefusedError, match="invalid"):
        client.submit(msgspec.structs.replace(payload(KEPT), viewers=("laptop",)))
    shutil.rmtree(done.folder)
    with pytest.raises(RefusedError, match="gone"):
        client.ask(p.View, job=done.id)
    assert not _shows(server)
