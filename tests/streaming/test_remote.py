"""A kernel's runs in a viewer over real sockets: every plane is right, whatever happens to the connection."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.streaming import RemoteSource, StreamServer, TableRequest
from openhcs_jupyter.streaming.keys import ConnectionFile, KeyPair, read_private
from tests.engine.bench import Bench, until
from tests.streaming.heard import Heard, Truth
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
