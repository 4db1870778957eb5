"""Servers and plates for their jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.plates import write_plate
from tests.server.serving import ServerProcess, running

CORES = 2


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRepository]:
    """Return a repository with one plate of eight fields, the same for all tests of a file."""
    folder = tmp_path_factory.mktemp("plates")
    write_plate(folder / "plate", wells=("A01", "A02", "B01", "B02"), fields=2, z=2)
    with EmbeddedRepository(folder / "repository") as repository:
        repository.import_plate(folder / "plate")
        yield repository


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, plates: EmbeddedRepository) -> Iterator[ServerProcess]:
    """Return the server of all tests of a file; jobs of earlier tests may be there."""
    folder = tmp_path_factory.mktemp("shared") / "server"
    with running(folder, "--repository", plates.uri, "--max-workers", str(CORES)) as made:
        yield made


@pytest.fixture
def serve(tmp_path: Path, plates: EmbeddedRepository) -> Iterator[Callable[..., ServerProcess]]:
    """Return a function that starts a server of a test's own for `plates`."""
    with ExitStack() as stack:
        numbers = iter(range(10))

        def start(*options: str, **environment: str) -> ServerProcess:
            folder = tmp_path / f"server{next(numbers)}"
            return stack.enter_context(running(folder, "--repository", plates.uri, *options, **environment))

        yield start
