"""A client whom the server knows by its session with OMERO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py and Ice are not installed")

from openhcs_jupyter.client import RemoteOrchestrator
from openhcs_jupyter.errors import RepositoryError, ServerError
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Step
from tests.client.conftest import profile_of
from tests.omero.lab import Lab
from tests.omero_standin.sample import PASSWORDS
from tests.server.serving import ServerProcess
from tests.server.test_omero import lab, server  # noqa: F401 - fixtures


@pytest.fixture
def ada(server: ServerProcess, lab: Lab) -> Iterator[RemoteOrchestrator]:  # noqa: F811 - a fixture
    """Return ada's connection; she is asked for her password once."""
    profile = profile_of(server, omero=lab.uri("ada"))
    with RemoteOrchestrator(profile=profile, password=PASSWORDS.__getitem__) as made:
        yield made


def test_a_plate_of_omero_is_done_by_the_one_whose_session_it_is(ada: RemoteOrchestrator, lab: Lab) -> None:  # noqa: F811 - a fixture
    run = ada.run_remote_pipeline(lab.made_by_client[0], [Step(max_projection, save=True)], {"fields": "1"})
    assert run.result().status == "done"
    assert ada.get_status(run.id).owner == "ada"
    well = run.plan.units[0].well
    assert run.image(well=well).ndim == 5


def test_who_cannot_log_in_or_is_not_served_is_told(
    ada: RemoteOrchestrator,
    server: ServerProcess,  # noqa: F811 - a fixture
    lab: Lab,  # noqa: F811 - a fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ada.ping()
    grace = profile_of(server, omero=lab.uri("grace"))
    with pytest.raises(RepositoryError, match="no session"):
        RemoteOrchestrator(profile=grace)
    with (
        RemoteOrchestrator(profile=grace, password=PASSWORDS.__getitem__) as other,
        pytest.raises(ServerError, match="serves ada only"),
    ):
        other.jobs()
