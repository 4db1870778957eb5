"""Fixtures that tests of all rooms share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from openhcs_jupyter.repository.embedded import EmbeddedRepository
from tests.plates import MadePlate, write_plate

if TYPE_CHECKING:
    from tests.kernel.lab import Lab

_LONG = ("notebooks", "server", "lab", "kernel", "viewer", "engine", "omero", "client", "magics")
"""Rooms whose tests take longest, and begin first."""
_SHARED = ("server", "lab", "viewer", "omero")
"""Rooms whose tests share a browser, a screen, accounts or a server, and stay in one process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long ones."""
    rooms = {item: item.path.relative_to(Path(__file__).parent).parts[0] for item in items}
    items.sort(key=lambda item: _LONG.index(rooms[item]) if rooms[item] in _LONG else len(_LONG))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep tests of a file, or of a room that shares something, in one process."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((room for room in _SHARED if file.startswith(f"tests/{room}/")), file)

    config.option.loadscopereorder = False
    return Rooms(config, log)


@pytest.fixture(scope="session", autouse=True)
def use_of_the_disk() -> Iterator[None]:
    """Let states between steps be kept on a disk that is nearly full, as that of a shared machine often is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENHCS_SPARE_GB", "0.001")
        yield


@pytest.fixture
def make_plate(tmp_path: Path) -> Callable[..., MadePlate]:
    """Return a function that writes a small plate: ``make_plate(folder=..., wells=("A01",), fields=1, z=3, ...)``."""

    def make(folder: Path | None = None, **how: object) -> MadePlate:
        return write_plate(folder or tmp_path / "plate", **how)

    return make


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[EmbeddedRepository]:
    """Return an empty embedded repository."""
    with EmbeddedRepository(tmp_path / "repository") as repository:
        yield repository


@pytest.fixture(scope="session")
def real_plates() -> Path:
    """Return the folder with real acquisitions, ``imagexpress/`` and ``cv8000/``."""
    folder = os.environ.get("OPENHCS_TEST_PLATES")
    if not folder:
        pytest.skip("OPENHCS_TEST_PLATES does not name a folder with real plates")
    return Path(folder)


@pytest.fixture(scope="session")
def ssh_lab() -> Iterator[Lab]:
    """A laptop and a server, reached by ``ssh lab``; the laptop has the remote kernel "openhcs-lab"."""
    from tests.kernel.lab import can_serve, lab

    if not can_serve():
        pytest.skip("OpenSSH's server is not installed")
    with lab() as made:
        made.install()
        yield made
