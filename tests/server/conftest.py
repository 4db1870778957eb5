"""Servers and plates for their jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from openhcs_jupyter.server.processes import end_all, seats
from tests.plates import write_plate
from tests.server.serving import ServerProcess


@pytest.fixture
def plates(tmp_path: Path) -> EmbeddedRepository:
    """Return a repository with one plate of eight fields."""
    write_plate(tmp_path / "plate", wells=("A01", "A02", "B01", "B02"), fields=2, z=2)
    with EmbeddedRepository(tmp_path / "repository") as repository:
        repository.import_plate(tmp_path / "plate")
        yield repository


@pytest.fixture
def serve(tmp_path: Path, plates: EmbeddedRepository) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts a server for `plates`."""
    servers: list[ServerProcess] = []

    def start(*options: str, **environment: str) -> ServerProcess:
        folder = tmp_path / f"server{len(servers)}"
        made = ServerProcess(folder, "--repository", plates.uri, *options, **environment)
        servers.append(made)
        return made

    yield start
    for server in servers:
        server.close()
        mark = (server.state / "mark").read_text()
        for seat in {seat for _, seat in seats() if seat.startswith(mark)}:
            end_all(seat)
