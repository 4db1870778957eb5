"""Cut connections, killed servers, killed clients: the client ends with the right result, and no job is doubled."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openhcs_jupyter.client import RemoteOrchestrator, link
from openhcs_jupyter.client.mirror import Mirror
from openhcs_jupyter.door import RunOptions
from openhcs_jupyter.door.payload import code_of_steps
from openhcs_jupyter.errors import ServerError
from openhcs_jupyter.events import RunStarted, UnitDone
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Step, Table, measure
from openhcs_jupyter.server.model import Job, new_key
from tests.client.conftest import profile_of
from tests.server.serving import ServerProcess, until

Remote = Callable[..., RemoteOrchestrator]
UNITS = 8


class Cable:
    """Carries connections to a server, until it is cut."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._plugged = True
        self.carried = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections; new ones are broken at once."""
        self._plugged = False
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def plug(self) -> None:
        self._plugged = True

    def close(self) -> None:
        self.cut()
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                if not self._plugged:
                    here.close()
                    continue
                there = socket.create_connection(("127.0.0.1", self._to))
                self._open += [here, there]
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self.carried += len(data)
                other.sendall(data)
        for end in (one, other):
            end.close()


@pytest.fixture
def cables() -> Iterator[Callable[[int], Cable]]:
    made: list[Cable] = []

    def lay(port: int) -> Cable:
        made.append(Cable(port))
        return made[-1]

    yield lay
    for one in made:
        one.close()


@measure()
def patient(stack: Any, context: Any, folder: str) -> Any:
    """Wait in every unit but the first two for a file; note that it was done."""
    import time
    from pathlib import Path

    me = f"{context.well}f{context.field}"
    while me not in ("A01f1", "A01f2") and not Path(folder, "go").exists():
        time.sleep(0.01)
    with Path(folder, "done").open("a") as file:
        file.write(f"{me} {context.channel}\n")
    return {"brightest": [int(stack.max())]}


def steps(folder: Path) -> list[Step]:
    return [
        Step(patient, {"folder": str(folder)}, channel="DAPI", outputs=Table("areas")),
        Step(max_projection, save=True),
    ]


def right(run: Any) -> None:
    """Check that a run has what it should, each unit done once."""
    assert run.status == "done"
    assert len(run.table("areas")) == UNITS
    assert run.table("areas")["brightest"].gt(3500).all()
    assert run.image("max_projection", well="B02", field=2).dtype == np.uint16


def each_once(folder: Path) -> bool:
    done = (folder / "done").read_text().splitlines()
    return len(done) == len(set(done)) == UNITS


def test_announcements_alone_tell_of_the_end(
    server: ServerProcess, remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = remote(server).run_remote_pipeline(1, steps(tmp_path))
    until(lambda: run.progress.stages and run.progress.stages[0].done == 2)
    monkeypatch.setattr(link, "_LOOK_S", 3600.0)
    (tmp_path / "go").touch()
    right(run.result())
    assert each_once(tmp_path)


def test_a_client_waits_through_the_death_and_return_of_the_server(
    server: ServerProcess, remote: Remote, tmp_path: Path
) -> None:
    run = remote(server).run_remote_pipeline(1, steps(tmp_path))
    until(lambda: run.progress.stages and run.progress.stages[0].done == 2)
    server.kill()
    ended: list[Any] = []
    waiting = threading.Thread(target=lambda: ended.append(run.result()))
    waiting.start()
    (tmp_path / "go").touch()
    until(lambda: each_once(tmp_path))
    assert not ended
    server.start()
    waiting.join(60)
    assert ended == [run]
    right(run)
    assert each_once(tmp_path)
    kinds = [type(event) for event in run.events()]
    assert kinds.count(RunStarted) == 1
    assert kinds.count(UnitDone) == UNITS


def test_a_client_waits_through_cuts_and_a_job_is_made_once(
    server: ServerProcess, remote: Remote, tmp_path: Path, cables: Callable[[int], Cable]
) -> None:
    requests = cables(server.invitation.port)
    client = remote(server, port=requests.port)
    code = code_of_steps(steps(tmp_path))
    key = new_key()
    made = [client.submit_code(code, RunOptions(plate="1"), key=key).id for _ in range(3)]
    assert len(set(made)) == 1
    run = client.attach(made[0])
    until(lambda: run.progress.stages and run.progress.stages[0].done == 2)
    requests.cut()
    submitted: list[Job] = []
    again = threading.Thread(target=lambda: submitted.append(client.submit_code(code, RunOptions(plate="1"), key=key)))
    again.start()
    (tmp_path / "go").touch()
    until(lambda: each_once(tmp_path))
    requests.plug()
    again.join(60)
    assert [job.id for job in submitted] == made[:1]
    right(run.result())
    assert [job.id for job in client.jobs() if job.key == key] == made[:1]
    for _ in range(3):
        requests.cut()
        requests.plug()
        assert client.get_status(run.id).state == "done"


def test_a_laptop_that_is_switched_off_finds_its_job_again(
    server: ServerProcess, remote: Remote, tmp_path: Path
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from openhcs_jupyter.client import RemoteOrchestrator, save_profile\n"
        "from tests.client.test_faults import steps\n"
        "client = RemoteOrchestrator()\n"
        "run = client.run_remote_pipeline(1, steps(Path(sys.argv[1])), name='lid')\n"
        "print(run.id, flush=True)\n"
        "run.result()\n"
    )
    from openhcs_jupyter.client import save_profile

    save_profile(profile_of(server))
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as laptop:
        assert laptop.stdout is not None
        job = laptop.stdout.readline().strip()
        until(lambda: (tmp_path / "done").exists())
        laptop.send_signal(signal.SIGKILL)
    client = remote(server)
    latest = client.jobs()[0]
    assert (latest.id, latest.name, latest.state) == (job, "lid", "running")
    run = client.attach(job)
    assert run.status == "running"
    (tmp_path / "go").touch()
    right(run.result())
    assert each_once(tmp_path)
    assert len([event for event in run.events() if isinstance(event, UnitDone)]) == UNITS


def test_what_the_server_cannot_answer_in_time_is_an_error_that_says_so(
    server: ServerProcess, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = remote(server)
    assert client.ping()
    monkeypatch.setattr(link, "PATIENCE_S", 0.5)
    server.process.send_signal(signal.SIGSTOP)
    start = time.monotonic()
    try:
        assert not client.ping()
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert time.monotonic() - start < 5
    monkeypatch.setattr(link, "PATIENCE_S", 30.0)
    assert client.ping()


def test_a_server_writes_nowhere_but_into_its_runs_mirror(
    server: ServerProcess, remote: Remote, tmp_path: Path
) -> None:
    with remote(server) as connected:
        mirror = Mirror(connected._link, "nobodys")
        for name in ("../up", f"{tmp_path}/plan.json", "units/key/../../../plan.json"):
            with pytest.raises(ServerError, match="outside of its run"):
                mirror.fetch([name])
    assert list(tmp_path.iterdir()) == []
