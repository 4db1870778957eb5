"""Messages that nobody should send, and clients that do not behave."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.front_door import FrontDoor
from openhcs_jupyter.server.model import ENDED
from openhcs_jupyter.streaming.keys import new_keys
from openhcs_jupyter.streaming.sockets import Monitor
from tests.server.serving import Client, RefusedError, ServerProcess, payload, running, until

_frames = st.lists(st.binary(max_size=200), min_size=1, max_size=3)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KINDS = [kind.__struct_config__.tag for kind in p.AnyRequest.__args__]  # type: ignore[attr-defined]  # a union has it
_maps = st.builds(
    lambda kind, number, fields: [msgspec.msgpack.encode({**fields, "is": kind, "id": number})],
    st.sampled_from(_KINDS),
    st.integers(-1, 2**40),
    st.dictionaries(
        st.sampled_from(["job", "key", "payload", "file", "offset", "token", "session", "version", "states", "x"]),
        _values,
        max_size=6,
    ),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Return a server with an empty repository."""
    folder: Path = tmp_path_factory.mktemp("hostile")
    with running(folder / "server", "--repository", str(folder / "repository")) as made:
        yield made


@given(frames=_frames | _maps)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
def test_anything_may_be_sent_by_a_stranger(server: ServerProcess, frames: list[bytes]) -> None:
    _send(_shared(server, "stranger"), frames)


@given(frames=_frames | _maps)
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
def test_anything_may_be_sent_by_an_owner(server: ServerProcess, frames: list[bytes]) -> None:
    _send(_shared(server, "owner"), frames)


_clients: dict[str, Client] = {}


def _shared(server: ServerProcess, who: str) -> Client:
    if who not in _clients:
        _clients[who] = server.stranger() if who == "stranger" else server.client()
        _clients[who].count_from(2**41)  # no answer is taken for that to another message
    return _clients[who]


def _send(client: Client, frames: list[bytes]) -> None:
    client.socket.send_multipart(frames)
    assert isinstance(client.ask(p.Ping), p.Pong)
    assert not client.socket.poll(0) or p.read_reply(client.socket.recv_multipart())


def test_after_all_that_the_server_serves_and_holds_nothing(server: ServerProcess) -> None:
    client = server.client()
    assert all(job.state in (*ENDED, "queued", "compiling") for job in client.ask(p.ListJobs).jobs)
    assert client.ask(p.GetServer).clients < 20
    assert "Traceback" not in server.log.read_text()
    assert psutil.Process(server.process.pid).memory_info().rss < 400e6


def test_without_the_servers_key_nobody_shakes_hands(server: ServerProcess) -> None:
    context = zmq.Context.instance()
    for wrong in ("none", "plain", "other"):
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        if wrong == "plain":
            socket.plain_username, socket.plain_password = b"root", b"root"
        if wrong == "other":
            keys = new_keys()
            socket.curve_serverkey = new_keys().public.encode()
            socket.curve_publickey, socket.curve_secretkey = keys.public.encode(), keys.secret.encode()
        monitor = Monitor(socket)
        socket.connect(server.invitation.endpoint.control)
        socket.send(p.encode(p.Ping(id=1)))
        happened = until(lambda monitor=monitor: monitor.read())
        assert "connected" not in happened
        assert not socket.poll(100)
        monitor.close()
        socket.close()


def test_who_asks_without_end_for_announcements_holds_nobody_up() -> None:
    door = FrontDoor("tcp://127.0.0.1:0", new_keys())
    asked = []

    class Endless:
        def recv(self, _flags: int) -> bytes:
            asked.append(1)
            assert len(asked) < 10_000, "it never looks at anything else"
            return b"\1stranger"

    news, door.news = door.news, Endless()  # type: ignore[assignment]  # replaced on purpose
    door.admit(lambda _: False)
    door.news = news
    door.close()


def test_a_request_that_is_too_large_ends_its_connection_only(server: ServerProcess) -> None:
    rude, other = server.client(), server.client()
    rude.socket.send(b"\0" * (p.MOST_REQUEST_BYTES + 1))
    assert isinstance(other.ask(p.Ping), p.Pong)
    # It comes back by itself, and is still known by its key.
    assert rude.ask(p.Ping).known


def test_a_client_that_never_reads_costs_no_memory_and_holds_nobody_up(serve: Callable[..., ServerProcess]) -> None:
    server = serve()
    client = server.client()
    job = client.wait(client.submit(payload("pipeline_steps = [Step(max_projection)]")).id)
    welcome = client.hello(server.token)
    deaf = server.client()
    deaf.watch(welcome)
    before = psutil.Process(server.process.pid).memory_info().rss
    for _ in range(3000):
        deaf.send(p.Fetch, job=job.id, file="plan.json")
        deaf.send(p.GetEvents, job=job.id)
    assert client.job(job.id).state == "done"
    assert client.wait(client.submit(payload("pipeline_steps = [Step(max_projection)]", "next")).id).state == "done"
    assert psutil.Process(server.process.pid).memory_info().rss - before < 150e6


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if _run("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)) != 0:
        pytest.skip("only root can mount a small disk")
    server = ServerProcess(disk / "server", "--repository", str(tmp_path / "repository"))
    try:
        client = server.client()
        waiting = client.submit(payload("pipeline_steps = []", "before"))
        _fill(disk / "fill")
        # Small things may still find room.
        with pytest.raises(RefusedError, match="busy"):
            _submit_many(client, 50)
        assert isinstance(client.ask(p.Ping), p.Pong)
        (disk / "fill").unlink()
        accepted = client.submit(payload("pipeline_steps = []", "after"))
        assert {job.id for job in client.ask(p.ListJobs).jobs} >= {waiting.id, accepted.id}
        client.wait(accepted.id, "failed")
    finally:
        server.close()
        _run("umount", "--lazy", str(disk))


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 65536)


def _submit_many(client: Client, count: int) -> None:
    for _ in range(count):
        client.submit(payload("pipeline_steps = []\n" + "#" * 100_000))


def _run(*command: str) -> int:
    return subprocess.run(command, check=False, timeout=30, capture_output=True).returncode
