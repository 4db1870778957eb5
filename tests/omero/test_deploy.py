"""What `deploy/` brings to a test server: the plates that the tests look for there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

import yaml

from openhcs_jupyter.repository.omero import OmeroRepository
from tests.omero_standin.process import StandIn
from tests.omero_standin.sample import PASSWORDS, Sample
from tests.plates import write_plate

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("OMERO_HOST" in os.environ, reason="a real server has its plates already"),
]
_DEPLOY = Path(__file__).parents[2] / "deploy"


def test_plates_are_drawn_once_and_are_those_of_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("OPENHCS_DATA_DIR", str(tmp_path / "data"))
    Sample(tmp_path / "server")  # people, and no plates
    made = write_plate(tmp_path / "drawn")
    with StandIn(tmp_path / "server") as server:
        command = [sys.executable, _DEPLOY / "import_plates.py", "127.0.0.1", "--port", str(server.port)]
        for _ in range(2):
            subprocess.run([*command, "--no-people", "--no-imported"], check=True, timeout=120, capture_output=True)
        uri = f"omero://ada@127.0.0.1:{server.port}"
        with OmeroRepository(uri, lambda _: PASSWORDS["ada"]) as ada:
            assert [(plate.name, plate.source) for plate in ada.plates()] == [("drawn", "screen Screen one")]
            plate = ada.plate("drawn")
            assert [channel.name for channel in plate.channels] == list(made.channels)
            for well, field in plate.fields():
                with ada.open(field.images[0]) as source:
                    np.testing.assert_array_equal(source.plane(0, 1, 2), made.plane(well.name, field.number, 1, 2))


def test_the_compose_file_runs_what_there_is() -> None:
    services = yaml.safe_load((_DEPLOY / "docker-compose.yml").read_text())["services"]
    assert {"database", "omero", "web", "broker", "kernels"} == set(services)
    from openhcs_jupyter.cli import parser

    unit = (_DEPLOY / "openhcs-broker.service").read_text().replace("\\\n", " ")
    (start,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    for command in (services["broker"]["command"], start.removeprefix("ExecStart=/opt/openhcs/bin/")):
        parser().parse_args(command.split()[1:])
