"""A laboratory for tests: a stand-in with people and plates, or the real server that ``OMERO_HOST`` names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Self

import pytest
from omero.gateway import BlitzGateway

from openhcs_jupyter.repository.omero import OmeroRepository
from tests.omero_standin.process import StandIn
from tests.omero_standin.sample import PASSWORDS, Sample
from tests.plates import MadePlate, write_plate


class RealServer:
    """A server that runs already; tests that look into a stand-in are skipped."""

    port = int(os.environ.get("OMERO_PORT", "4064"))

    @property
    def binary_repository(self) -> Path:
        pytest.skip("a real server's files are on another machine")

    def ask(self, **what: Any) -> dict[str, Any]:
        pytest.skip(f"only the stand-in can be asked for {', '.join(what)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Lab:
    """A stand-in with a folder of its own; a context manager, in which it runs.

    Where ``OMERO_HOST`` names a server, it is that one, with what ``deploy/import_plates.py`` made there.
    """

    def __init__(self, folder: Path, idle_s: float = 600) -> None:
        self.host = os.environ.get("OMERO_HOST", "127.0.0.1")
        self.server: Any
        if "OMERO_HOST" in os.environ:
            self.server = RealServer()
            self.made_by_client = self._found("ada", "drawn", folder)
            self.imported = self._found("ada", "acquired", folder)
            self.private = self._found("mallory", "hidden", folder)
            return
        sample = Sample(folder)
        self.sample = sample
        self.screen = sample.screen("Screen one")
        self.made_by_client = sample.plate("drawn", screen=self.screen)
        self.imported = sample.plate("acquired", imported=True, screen=self.screen)
        self.private = sample.plate("hidden", owner="mallory", of="private")
        self.server = StandIn(folder, idle_s)

    def __enter__(self) -> Self:
        if not isinstance(self.server, RealServer):
            self.sample.close()
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.__exit__()

    def uri(self, user: str) -> str:
        return f"omero://{user}@{self.host}:{self.server.port}"

    def join(self, user: str, password: str | None = None) -> OmeroRepository:
        """Log in as somebody."""
        repository = OmeroRepository(self.uri(user), lambda _: password or PASSWORDS[user])
        repository.reach()
        return repository

    def login(self, user: str, password: str | None = None) -> BlitzGateway:
        """Log in as somebody with omero-py's own gateway; who asks for it closes it."""
        connection = BlitzGateway(user, password or PASSWORDS[user], host=self.host, port=self.server.port, secure=True)
        if not connection.connect():
            why = connection.getLastError()
            connection.close()
            raise ConnectionError(str(why))
        return connection

    def _found(self, user: str, name: str, folder: Path) -> tuple[int, MadePlate]:
        """Find a plate by its name; its pixels are those that `write_plate` always makes."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_STATE_HOME", str(folder / "state"))
            with self.join(user) as repository:
                numbers = [plate.id for plate in repository.plates() if plate.name == name]
        if not numbers:
            pytest.fail(f"{user} sees no plate {name!r} on {self.host}: run deploy/import_plates.py {self.host}")
        return numbers[0], write_plate(folder / name)
