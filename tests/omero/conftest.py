"""Fixtures of the tests of OMERO: a laboratory for each module, and people in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from omero.gateway import BlitzGateway

    from openhcs_jupyter.repository.omero import OmeroRepository
    from tests.omero.lab import Lab


@pytest.fixture(autouse=True, scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder of the module's own with ``data`` and ``state``, where its runs and sessions are kept."""
    from openhcs_jupyter.engine import fork_server

    folder = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENHCS_DATA_DIR", str(folder / "data"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        fork_server().stop()  # workers have the environment of their server's start
        yield folder
    fork_server().stop()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Return a laboratory that runs."""
    pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")
    from tests.omero.lab import Lab

    with Lab(tmp_path_factory.mktemp("omero")) as made:
        yield made


@pytest.fixture
def ada(lab: Lab) -> Iterator[OmeroRepository]:
    """Return the repository as ada sees it."""
    with lab.join("ada") as repository:
        yield repository


@pytest.fixture
def direct(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[OmeroRepository]:
    """Return the same, of an account that may read the binary repository."""
    monkeypatch.setenv("OPENHCS_OMERO_BINARY_REPOSITORY", str(lab.server.binary_repository))
    with lab.join("ada") as repository:
        yield repository


@pytest.fixture
def gateway(lab: Lab) -> Iterator[BlitzGateway]:
    """Return the gateway of omero-py, with ada logged in."""
    connection = lab.login("ada")
    yield connection
    connection.close()
