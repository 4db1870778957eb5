"""Real servers, and clients with profiles of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.client import Profile, RemoteOrchestrator
from tests.server import conftest
from tests.server.serving import ServerProcess

plates, serve, server = conftest.plates, conftest.serve, conftest.server


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own profiles and settings out."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "settings"


def profile_of(one: ServerProcess, **values: object) -> Profile:
    """Return a profile by which a server's own account comes."""
    given = {
        "name": "lab",
        "host": one.invitation.host,
        "port": one.invitation.port,
        "key": one.invitation.key,
    }
    if "omero" not in values:
        given["token"] = one.token
    return Profile(**(given | values))


@pytest.fixture
def remote() -> Iterator[Callable[..., RemoteOrchestrator]]:
    """Return a function that connects to a server."""
    made: list[RemoteOrchestrator] = []

    def connect(one: ServerProcess, **values: object) -> RemoteOrchestrator:
        made.append(RemoteOrchestrator(profile=profile_of(one, **values)))
        return made[-1]

    yield connect
    for one in made:
        one.close()
