"""OMERO's own command line: unmodified, as a user of the machine, on what this package reads and writes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero import OmeroRepository
from tests.omero.lab import Lab
from tests.omero_standin.sample import PASSWORDS

pytestmark = pytest.mark.filterwarnings("ignore")
_NOBODY = 65534
# It refuses to work for root. Somebody else may not be able to read this interpreter, and so gets leave to read.
_AS_SOMEBODY = [
    "setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]  # fmt: skip


class CommandLine:
    """`omero`, for a user with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._as: list[str] = []
        if os.getuid() == 0:
            self._as = _AS_SOMEBODY
            os.chown(home, _NOBODY, _NOBODY)

    def run(self, *arguments: str) -> str:
        """Run a command that must succeed, and return what it prints."""
        command = [*self._as, sys.executable, "-W", "ignore", str(Path(sys.executable).with_name("omero")), *arguments]
        own = {"HOME": str(self.home), "OMERO_USERDIR": str(self.home), "OMERO_TMPDIR": str(self.home / "tmp")}
        done = subprocess.run(command, env=os.environ | own, cwd=self.home, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def load(self, *commands: str) -> str:
        """Run several commands in one process."""
        script = self.home / "commands"
        script.write_text("\n".join(commands) + "\n")
        return self.run("load", str(script))


@pytest.fixture(scope="module")
def omero(lab: Lab) -> Iterator[CommandLine]:
    """Return the command line, with ada logged in."""
    home = Path(tempfile.mkdtemp(prefix="omero-home-"))
    made = CommandLine(home)
    made.run("login", "-s", f"{lab.host}:{lab.server.port}", "-u", "ada", "-w", PASSWORDS["ada"])
    yield made
    made.run("logout")
    shutil.rmtree(home)


def test_objects_and_queries(lab: Lab, omero: CommandLine) -> None:
    number, made = lab.imported
    told = omero.load(
        f"obj get Plate:{number} name",
        f'hql -q --style plain "select w.row, w.column from Well w where w.plate.id = {number} order by w.row"',
        "fs sets --style plain",
    )
    lines = told.splitlines()
    assert "acquired" in lines
    assert [line for line in lines if re.fullmatch(r"\d,\d,\d", line)] == ["0,0,0", "1,1,1"]
    assert any(f",{made.fields * len(made.wells)}," in line for line in lines if "ada_" in line)


def test_what_is_made_is_changed_and_deleted(omero: CommandLine, lab: Lab) -> None:
    name = omero.run("obj", "new", "Dataset", "name=made by the command line").strip()
    assert re.fullmatch(r"Dataset:\d+", name)
    told = omero.load(
        f"obj update {name} description=changed", f"obj get {name} description", f"delete {name} --report"
    )
    assert "changed" in told.splitlines()
    assert "Deleted objects" in told
    with lab.login("ada") as gateway:
        assert gateway.getObject("Dataset", int(name.partition(":")[2])) is None


def test_its_session_is_joined(lab: Lab, omero: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMERO_USERDIR", str(omero.home))
    for address in (lab.uri("ada"), f"omero://{lab.host}:{lab.server.port}"):
        with OmeroRepository(address) as repository:
            assert repository.connection.user == "ada"
            assert {plate.name for plate in repository.plates()} >= {"drawn", "acquired"}
    with pytest.raises(RepositoryError, match="no session"):
        OmeroRepository(lab.uri("mallory")).reach()
