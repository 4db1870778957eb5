"""Jobs whose plates lie on OMERO: who clients are, and the sessions of jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py and Ice are not installed")

from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.sessions import Connection
from openhcs_jupyter.server import omero
from openhcs_jupyter.server import protocol as p
from tests.omero.lab import Lab
from tests.omero_standin.sample import PASSWORDS
from tests.server.serving import SLOW, Client, RefusedError, ServerProcess, computed, payload, running, until


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """Return a running stand-in, with nobody logged in."""
    for name in ("DATA", "STATE", "CONFIG", "RUNTIME"):
        monkeypatch.setenv(f"XDG_{name}_{'DIR' if name == 'RUNTIME' else 'HOME'}", str(tmp_path / name.lower()))
    with Lab(tmp_path / "omero", 20) as made:
        yield made


def _session(lab: Lab, user: str) -> str:
    with Connection(parse_address(lab.uri(user)), lambda _: PASSWORDS[user]) as connection:
        return connection.key


@pytest.fixture
def server(lab: Lab, tmp_path: Path) -> Iterator[ServerProcess]:
    """Return a server for ada's jobs."""
    with running(tmp_path / "server", "--repository", lab.uri("ada")) as made:
        yield made


def _ada(server: ServerProcess, lab: Lab) -> Client:
    client = server.stranger()
    client.ask(p.Hello, version=p.PROTOCOL_VERSION, session=_session(lab, "ada"))
    return client


def test_a_client_is_who_its_session_says(server: ServerProcess, lab: Lab) -> None:
    client = _ada(server, lab)
    assert client.ask(p.ListJobs).jobs == ()
    for session in ("not-a-session", "", "00000000-0000-0000-0000-000000000000"):
        with pytest.raises(RefusedError, match="identity"):
            server.stranger().ask(p.Hello, version=p.PROTOCOL_VERSION, session=session)
    with pytest.raises(RefusedError, match="serves ada only"):
        server.stranger().ask(p.Hello, version=p.PROTOCOL_VERSION, session=_session(lab, "grace"))


def test_a_job_has_a_session_of_its_own_and_drops_it(server: ServerProcess, lab: Lab) -> None:
    client = server.stranger()
    login = _session(lab, "ada")
    client.ask(p.Hello, version=p.PROTOCOL_VERSION, session=login)
    job = client.submit(payload(SLOW, plate=str(lab.made_by_client[0])))
    client.wait(job.id, "running")
    (file,) = (server.state / "sessions").iterdir()
    key = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert key != login
    # The user leaves; the job goes on.
    omero.drop(parse_address(lab.uri("ada")), login)
    assert client.wait(job.id).state == "done", client.log(job.id)
    assert not file.exists()
    with pytest.raises(Exception, match="has ended"):
        omero.examine(parse_address(lab.uri("ada")), key)


def test_a_job_without_a_session_waits_for_a_login(server: ServerProcess, lab: Lab) -> None:
    client = _ada(server, lab)
    job = client.submit(payload(SLOW, plate=str(lab.made_by_client[0])))
    until(lambda: client.job(job.id).done >= 1)
    lab.server.ask(close_sessions=True)
    # What was read before may be enough for the end; another job is not so lucky.
    other = client.submit(payload(SLOW, "other", plate=str(lab.made_by_client[0])))
    assert client.wait(other.id, "needs_login", patience_s=120).message  # the first one may hold all cores for long
    client.ask(p.Hello, version=p.PROTOCOL_VERSION, session=_session(lab, "ada"))
    assert client.wait(other.id, "done", patience_s=90).state == "done"
    assert len(computed(client.events(other.id))) <= client.job(other.id).units


def test_a_job_whose_session_is_known_to_have_ended_waits_at_once(server: ServerProcess, lab: Lab) -> None:
    client = _ada(server, lab)
    logins = server.state / "logins"
    assert until(lambda: list(logins.glob("*.json")))
    lab.server.ask(close_sessions=True)
    until(lambda: not list(logins.glob("*.json")))
    job = client.submit(payload(SLOW, plate=str(lab.made_by_client[0])))
    assert client.wait(job.id, "needs_login").message
    client.ask(p.Hello, version=p.PROTOCOL_VERSION, session=_session(lab, "ada"))
    assert client.wait(job.id, "done", patience_s=90).done == 4
