"""A kernel's runs in a viewer over real sockets: every plane is right, whatever happens to the connection."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import zmq

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.streaming import (
    ListeningSource,
    PlaneRequest,
    RemoteSource,
    StreamServer,
    TableRequest,
    open_source,
)
from openhcs_jupyter.streaming.keys import (
    ConnectionFile,
    KeyPair,
    new_keys,
    read_invitation,
    read_private,
    write_private,
)
from openhcs_jupyter.streaming.layers import LinkChanged
from openhcs_jupyter.streaming.opening import is_source
from openhcs_jupyter.streaming.wire import Hello, encode
from tests.engine.bench import Bench, until
from tests.streaming.functions import hold
from tests.streaming.heard import Heard, Truth, digest
from tests.streaming.test_folder import STEPS

Serve = Callable[..., StreamServer]


def connection(server: StreamServer) -> ConnectionFile:
    return read_private(server.connection_file, ConnectionFile)


def over_tcp(server: StreamServer, keys: KeyPair | None = None, server_key: str | None = None) -> RemoteSource:
    """Return a viewer on TCP that gets planes sent, as from another machine."""
    found = connection(server)
    return RemoteSource(
        found.endpoints[1],
        server_key=server_key or found.server_key,
        keys=keys or found.viewer,
        mapping=False,
    )


def over_socket(server: StreamServer, *, mapping: bool = False) -> RemoteSource:
    return RemoteSource(connection(server).endpoints[0], mapping=mapping)


@pytest.mark.parametrize("way", ["tcp", "socket", "mapped"])
def test_a_finished_run_shows_all_there_is(bench: Bench, serve: Serve, way: str) -> None:
    run = bench.done(*STEPS)
    server = serve(run.folder)
    with over_tcp(server) if way == "tcp" else over_socket(server, mapping=way == "mapped") as source:
        heard = Heard(source)
        heard.until_ended()
        until(lambda: len(heard.stacks()) == 12 and len(heard.tables()) == 4, "all results")
        assert heard.link().link == "connected"
        Truth(run).check(heard)
        for (layer, well, field), ready in heard.tables().items():
            rows = source.fetch_table(TableRequest(run=run.id, layer=layer, well=well, field=field)).result(10)
            assert rows.num_rows == ready.rows
            assert rows.column("well").to_pylist() == [heard.view().wells[well].name] * ready.rows
        coarse = heard.plane(heard.stacks()[0, 0, 0], coarse=True)
        assert coarse.shape == (3, 4)


def test_the_files_of_a_kernel_are_for_its_owner_only(bench: Bench, serve: Serve) -> None:
    server = serve()
    assert stat.S_IMODE(server.connection_file.stat().st_mode) == 0o600
    for endpoint in connection(server).endpoints[:1]:
        for address in (endpoint.control, endpoint.news):
            path = Path(address.removeprefix("ipc://"))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at the process's files as Linux shows them")
def test_planes_leave_through_a_large_buffer_on_a_unix_socket(serve: Serve) -> None:
    """The system's own makes a kernel and a viewer wait for each other forty times a plane."""
    server = serve()
    with over_socket(server), socket.socket(socket.AF_UNIX) as likewise:
        likewise.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        most = likewise.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        path = server.local.control.removeprefix("ipc://")
        until(lambda: most in send_buffers(path), "a large buffer")


def send_buffers(path: str) -> list[int]:
    """Return the sizes of the send buffers of this process's connections at a Unix socket."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        if file.is_socket():
            with socket.socket(fileno=os.dup(int(file.name))) as other:
                listens = other.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                if other.family == socket.AF_UNIX and other.getsockname() == path and not listens:
                    found.append(other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF))
    return found


def test_several_runs_and_viewers(bench: Bench, serve: Serve) -> None:
    first = bench.done(*STEPS, name="first")
    second = bench.done(Step(max_projection, save=True), name="second")
    server = serve(first.folder)
    with over_tcp(server) as one, over_socket(server) as other:
        heard = [Heard(one), Heard(other)]
        server.show(second.folder)
        for each in heard:
            until(lambda each=each: len(each.stacks(second.id)) == 8 and len(each.stacks(first.id)) == 12, "all runs")
            Truth(first).check(each)
            Truth(second).check(each)
    with over_tcp(server) as late:
        heard = Heard(late)
        until(lambda: len(heard.stacks()) >= 12 and len(heard.stacks(second.id)) == 8, "all runs, late")
        Truth(second).check(heard)


def test_a_viewer_without_the_key_gets_nothing(bench: Bench, serve: Serve) -> None:
    server = serve(bench.done(*STEPS[:2]).folder)
    found = connection(server)
    with over_tcp(server, keys=new_keys()) as stranger:
        heard = Heard(stranger)
        until(lambda: heard.link() and heard.link().link == "refused", "being turned away")
        assert [type(a) for a in heard.all if not isinstance(a, LinkChanged)] == []
    with over_tcp(server, server_key=new_keys().public) as mistaken:  # an impostor in the kernel's place
        heard = Heard(mistaken)
        with over_tcp(server) as right:
            known = Heard(right)
            until(lambda: len(known.stacks()) == 8, "what a viewer with the key sees")
        assert [type(a) for a in heard.all if not isinstance(a, LinkChanged)] == []
    context = zmq.Context()
    for kind, address in ((zmq.DEALER, found.endpoints[1].control), (zmq.SUB, found.endpoints[1].news)):
        plain = context.socket(kind)
        plain.linger = 0
        if kind == zmq.SUB:
            plain.subscribe(b"")
        plain.connect(address)
        if kind == zmq.DEALER:
            plain.send(encode(Hello(version=1, session=1)))
        assert not plain.poll(500)
        plain.close()
    context.term()


def test_a_file_that_others_can_read_is_not_used(serve: Serve) -> None:
    file = serve().connection_file
    file.chmod(0o644)
    with pytest.raises(StreamError, match="chmod 600"):
        RemoteSource.of(file)
    assert not is_source(file)


def test_a_kernel_on_the_loopback_of_another_machine_is_reached_through_ssh_only(serve: Serve) -> None:
    file = serve().connection_file
    write_private(file, msgspec.structs.replace(read_private(file, ConnectionFile), machine="another"))
    with pytest.raises(StreamError, match="HOST:FILE"):
        open_source(file)


def test_a_kernel_that_starts_again_is_found_again(bench: Bench, serve: Serve) -> None:
    run = bench.done(*STEPS)
    server = serve(run.folder)
    with over_tcp(server) as source, over_socket(server) as other:
        heard = [Heard(source), Heard(other)]
        for each in heard:
            until(lambda each=each: len(each.stacks()) == 12, "all results")
        server.close()
        for each in heard:
            until(lambda each=each: each.link().link == "lost", "the loss")
        request = PlaneRequest(run=run.id, layer=0, well=0, field=0, t=0, z=0)
        futures = [source.fetch(request), other.fetch(request)]
        later = bench.done(Step(max_projection, save=True), name="later")
        serve().show(later.folder)  # of the earlier runs it knows by itself
        for future in futures:
            assert digest(future.result(30).array) == digest(Truth(run).plane(heard[0].view(run.id), request))
        for each in heard:
            until(lambda each=each: len(each.stacks(later.id)) == 8, "the later run")
            Truth(run).check(each)
            Truth(later).check(each)


def test_what_is_withdrawn_is_not_sent(bench: Bench, serve: Serve) -> None:
    run = bench.done(*STEPS[:2])
    with over_tcp(serve(run.folder)) as source:
        heard = Heard(source)
        until(lambda: len(heard.stacks()) == 8, "all results")
        futures = [source.fetch(PlaneRequest(run=run.id, layer=0, well=0, field=0, t=0, z=0)) for _ in range(200)]
        cancelled = [future for future in futures[1:] if future.cancel()]
        assert futures[0].result(30).array.shape == (24, 32)
        assert all(future.done() for future in cancelled)
        Truth(run).check(heard)
        with pytest.raises(StreamError, match="not there"):
            source.fetch(PlaneRequest(run=run.id, layer=7, well=0, field=0, t=0, z=0)).result(10)
        waiting = [source.fetch(PlaneRequest(run=run.id, layer=0, well=0, field=0, t=0, z=0)) for _ in range(50)]
    assert all(future.done() for future in waiting)


def test_a_run_is_followed_as_it_goes_on(bench: Bench, serve: Serve) -> None:
    gate = bench.folder / "gate"
    run = bench.start(Step(hold, {"gate": str(gate)}, save=True))
    with over_tcp(serve(run.folder)) as source:
        heard = Heard(source)
        until(lambda: heard.status() == "running", "the run to be announced")
        gate.touch()
        heard.until_ended()
        assert len(heard.stacks()) == 8
        Truth(run).check(heard)
    assert run.wait(10)


def test_a_viewer_that_listens_lets_in_whom_it_invited(bench: Bench, tmp_path: Path) -> None:
    run = bench.done(*STEPS)
    keys = new_keys()
    port = free_port()

    def kernel(name: str, keys: KeyPair) -> StreamServer:
        server = StreamServer(tmp_path / name, name=name, host="127.0.0.1", port=0, keys=keys)
        server.start()
        server.show(run.folder)
        return server

    listening = ListeningSource("127.0.0.1", port, called="127.0.0.1", folder=tmp_path, mapping=False)
    line = listening.invitation.line()
    with listening as source, ExitStack() as opened:
        heard = Heard(source)
        server = kernel("invited", keys)
        opened.callback(server.close)
        server.call(read_invitation(line))
        until(lambda: len(heard.stacks()) == 12, "all results")
        until(lambda: server.is_called(read_invitation(line)), "the kernel to know")
        Truth(run).check(heard)
        again = kernel("stranger", new_keys())
        opened.callback(again.close)
        again.call(read_invitation(line))  # the token has been used
        second = kernel("second", new_keys())
        opened.callback(second.close)
        second.call(listening.invite())
        until(lambda: second.is_called(listening.invitation), "the second kernel to be let in")
        assert not again.is_called(listening.invitation)
    kept = (tmp_path / "viewer.json").stat()
    assert stat.S_IMODE(kept.st_mode) == 0o600
    with ListeningSource("127.0.0.1", port, called="127.0.0.1", folder=tmp_path, mapping=False) as source:
        assert source.invitation.key == read_invitation(line).key
        heard = Heard(source)
        server = kernel("known", keys)  # the same keys, another kernel of the same user
        try:
            server.call(msgspec.structs.replace(source.invitation, token=""))
            until(lambda: len(heard.stacks()) == 12, "all results, without a token")
            Truth(run).check(heard)
        finally:
            server.close()
        until(lambda: heard.link().link == "lost", "the viewer to notice")
        waiting = source.fetch(PlaneRequest(run=run.id, layer=0, well=0, field=0, t=0, z=0))
        server = kernel("known", keys)  # started again: it calls by itself, and is asked what was left
        try:
            assert waiting.result(30).array.shape == (24, 32)
            Truth(run).check(heard)
        finally:
            server.close()


@pytest.mark.parametrize("line", ["tcp://host:1", "tcp://host:99999?key=" + "0" * 64, "http://x", "tcp://h:5?key=zz"])
def test_what_is_no_line_of_a_viewer_is_refused(line: str) -> None:
    with pytest.raises(StreamError, match="no line of a listening viewer"):
        read_invitation(line)


def test_a_taken_port_is_named(bench: Bench, serve: Serve, tmp_path: Path) -> None:
    port = int(connection(serve()).endpoints[1].control.rpartition(":")[2])
    with pytest.raises(StreamError, match=str(port)):
        serve(at="other", port=port)


def free_port() -> int:
    """Find two free ports, the second after the first."""
    for port in range(47000, 48000, 2):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise RuntimeError("no free ports")
