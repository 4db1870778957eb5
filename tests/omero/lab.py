"""A laboratory for tests: a stand-in with people and plates, and repositories joined to it."""

from __future__ import annotations

from pathlib import Path

from openhcs_jupyter.repository.omero import OmeroRepository
from tests.omero_standin.process import StandIn
from tests.omero_standin.sample import PASSWORDS, Sample


class Lab:
    """A stand-in in a folder of its own; start it with ``with lab.server``."""

    def __init__(self, folder: Path, *options: str) -> None:
        sample = Sample(folder)
        self.sample = sample
        self.screen = sample.screen("Screen one")
        self.made_by_client = sample.plate("drawn", screen=self.screen)
        self.imported = sample.plate("acquired", imported=True, screen=self.screen)
        self.private = sample.plate("hidden", owner="mallory", of="private")
        self.server = StandIn(folder, *options)

    def uri(self, user: str) -> str:
        return f"omero://{user}@127.0.0.1:{self.server.port}"

    def join(self, user: str, password: str | None = None) -> OmeroRepository:
        """Log in as somebody."""
        repository = OmeroRepository(self.uri(user), lambda _: password or PASSWORDS[user])
        repository.reach()
        return repository
