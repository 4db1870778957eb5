"""A kernel behind a real SSH server: its Unix sockets are forwarded to the viewer's machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming import StreamServer, open_source
from tests.engine.bench import Bench, until
from tests.kernel.lab import Lab
from tests.streaming.heard import Heard, Truth
from tests.streaming.test_folder import STEPS


@pytest.fixture
def lab(ssh_lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """The SSH server, which this process reaches by ``ssh lab``."""
    monkeypatch.setenv("PATH", ssh_lab.environment["PATH"])
    return ssh_lab


def test_a_kernel_behind_ssh_shows_all_there_is_also_when_the_tunnel_breaks(
    bench: Bench, serve: Callable[..., StreamServer], lab: Lab
) -> None:
    run = bench.done(*STEPS)
    file = serve(run.folder).connection_file
    with open_source(f"lab:{file}") as source:
        source._mapping = False  # both machines are one here; this viewer has everything sent
        heard = Heard(source)
        until(lambda: len(heard.stacks()) == 12, "all results")
        Truth(run).check(heard)
        lab.cut()
        until(lambda: heard.link().link == "lost", "the loss")
        until(lambda: heard.link().link == "connected", "another tunnel", 20)
        Truth(run).check(heard)
        folder = source._folder
        assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0, 0]
    assert not folder.exists()


@pytest.mark.usefixtures("lab")
def test_what_ssh_does_not_reach_is_told() -> None:
    with pytest.raises(StreamError, match="No such file"):
        open_source("lab:/no/such/connection.json")
    with pytest.raises(StreamError, match="nowhere"):
        open_source("nowhere.invalid:/x/connection.json")
