"""Jobs that tell nonsense, leave traps, hide and hold fast: they harm themselves only."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from openhcs_jupyter.server import model
from openhcs_jupyter.server import protocol as p
from openhcs_jupyter.server.accounts import own_account
from openhcs_jupyter.server.folders import read_part
from openhcs_jupyter.server.identity import Clients, Identity
from openhcs_jupyter.server.processes import SEAT, Usage, process_id, usages
from openhcs_jupyter.server.queue import Queue, Record
from tests.server.conftest import CORES
from tests.server.serving import SLOW, Client, RefusedError, ServerProcess, payload, until

GOOD = "pipeline_steps = [Step(max_projection)]"
WIPE = """
import ctypes, os
library = ctypes.CDLL(None)
library.getenv.restype = ctypes.c_void_p
def wipe():
    place = library.getenv(b"OPENHCS_SEAT")
    ctypes.memset(place - len("OPENHCS_SEAT="), ord("x"), len(os.environ["OPENHCS_SEAT"]))
"""


def _log(client: Client, job: str) -> str:
    try:
        return client.log(job)
    except RefusedError:
        return ""  # it has not begun


def _works(client: Client, name: str) -> None:
    """Check that the server does other jobs."""
    asked = time.monotonic()
    assert isinstance(client.ask(p.Ping), p.Pong)
    assert time.monotonic() - asked < 2
    assert client.wait(client.submit(payload(GOOD, name)).id).state == "done"


PLANNED = {"event": "planned", "time": 0, "run": "x", "folder": "/", "plate_id": 1, "plate_name": "x", "units": 1}


@pytest.mark.parametrize(
    "lie", [{"units": 10**30}, {"plate_id": 10**40}, {"folder": "\0"}, {"plate_name": "x" * 10**5}]
)
def test_a_job_may_tell_nonsense(server: ServerProcess, lie: dict[str, object]) -> None:
    client = server.client()
    text = json.dumps(PLANNED | lie) + "\n"
    cell = f"open('../journal.jsonl', 'a').write({text!r})\npipeline_steps = []\nraise SystemError('enough')"
    assert client.wait(client.submit(payload(cell)).id, "failed").message == "SystemError: enough (line 3)"
    _works(client, "after_nonsense")
    assert "Traceback" not in server.log.read_text()


def test_a_journal_without_an_end_holds_nobody_up(server: ServerProcess) -> None:
    client = server.client()
    endless = client.submit(payload("import os\nos.truncate('../journal.jsonl', 1 << 42)\npipeline_steps = []"))
    empty = client.submit(payload("open('../journal.jsonl', 'a').write(chr(10) * 60_000_000)\npipeline_steps = []"))
    for job in (endless, empty):
        client.wait(job.id, "failed", "queued")
    _works(client, "after_endless")


def test_a_trap_in_its_folder_catches_a_job_only(server: ServerProcess) -> None:
    client = server.client()
    trap = f"import os\nos.mkfifo('../.orders.json.{server.process.pid}')\nos._exit(1)\npipeline_steps = []"
    job = client.submit(payload(trap))
    until(lambda: client.job(job.id).attempts > 1)
    client.ask(p.Cancel, job=job.id)
    _works(client, "after_trap")


def test_what_the_system_makes_up_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "maps").symlink_to("/proc/self/maps")
    assert read_part(tmp_path / "maps", 0, 100, own_account()) == (b"", 0)


HIDING = (
    WIPE
    + """
import signal, time
wipe()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("hidden", flush=True)
time.sleep(600)
pipeline_steps = []
"""
)
HOLDING = (
    WIPE
    + """
import time
if not os.fork():
    os.setsid()
    wipe()
    print(os.getpid(), flush=True)
    time.sleep(600)
time.sleep(1)
os._exit(1)
pipeline_steps = []
"""
)


def test_no_job_outlives_its_end_by_hiding(server: ServerProcess) -> None:
    client = server.client()
    hiding = client.submit(payload(HIDING, workers=1))
    holding = client.submit(payload(HOLDING, workers=1))
    until(lambda: "hidden" in _log(client, hiding.id) and _log(client, holding.id))
    client.ask(p.Cancel, job=hiding.id)
    held = int(client.log(holding.id).split()[0])
    try:
        # The process of one keeps its lock beyond the end of the job's own.
        until(lambda: client.job(holding.id).attempts > 1)
        client.ask(p.Cancel, job=holding.id)
        assert client.wait(hiding.id, "cancelled", patience_s=20).workers == 0
    finally:
        for line in client.log(holding.id).split():
            with suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)
    assert process_id(held) is None or until(lambda: process_id(held) is None)
    _works(client, "after_hidden")


def test_what_steps_print_is_in_the_jobs_log(server: ServerProcess) -> None:
    client = server.client()
    cell = SLOW.replace("0.15", "0.0").replace(
        "    time.sleep",
        "    import sys\n    print('said aloud')\n    print('said low', file=sys.stderr)\n    time.sleep",
    )
    job = client.wait(client.submit(payload(cell, workers=CORES)).id)
    assert job.state == "done", job.message
    log = client.log(job.id)
    assert (log.count("said aloud"), log.count("said low")) == (16, 16)
    assert "said" not in server.log.read_text()


def test_a_foreign_process_is_not_counted_as_a_jobs() -> None:
    with subprocess.Popen(["sleep", "60"], env={SEAT: "mine.1"}) as process:
        until(lambda: usages({"mine.1": os.getuid()}, math.inf).get("mine.1", Usage()).processes)
        assert usages({"mine.1": os.getuid() + 1}, math.inf) == {}
        process.kill()


def test_events_of_any_size_come_in_parts_that_can_be_sent(tmp_path: Path) -> None:
    queue = Queue(tmp_path / "queue.db")
    record = queue.add(
        Record(id="a", key="0" * 32, owner="ann", run="r", state="queued", name="x", plate="1", submitted=0.0),
        payload(GOOD),
    )
    event = model.StateChanged(time=0.0, state="queued", message="x" * 500_000)
    for _ in range(30):
        record = queue.note(record, [event])
    found: list[model.JobEvent] = []
    while len(found) < record.events:
        part = queue.events(record, len(found), p.MOST_EVENTS)
        reply = p.EventsAre(id=1, job="a", events=part, latest=record.events, state="queued")
        assert 0 < len(p.encode(reply)) < p.MOST_REPLY_BYTES
        found += part
    queue.close()
    assert [one.number for one in found] == list(range(1, record.events + 1))


def test_with_a_session_that_has_ended_all_of_its_owners_clients_say_again_who_they_are() -> None:
    clients = Clients()
    for key, owner, session in (("1", "ann", "old"), ("2", "ann", "new"), ("3", "ben", "other")):
        clients.add(key, Identity(owner=owner, session=session))
    before = clients.ticket("ann")
    clients.forget("old")
    # The second one would listen to the earlier ticket in vain.
    assert [clients.get(key) is None for key in "123"] == [True, True, False]
    assert clients.ticket("ann") != before


def test_an_owner_who_is_served_no_more_holds_nobody_up(serve: Callable[..., ServerProcess]) -> None:
    server = serve("--max-workers", "1")
    client = server.client()
    running = client.submit(payload(SLOW.replace("0.15", "2"), "left"))
    waiting = client.submit(payload(GOOD, "waits"))
    until(lambda: client.job(running.id).state == "running")
    server.kill()
    queue = Queue(server.state / "queue.db")
    for job in (running, waiting):
        record = queue.find(job.id)
        assert record is not None
        queue.note(msgspec.structs.replace(record, owner="gone"), [])
    queue.close()
    server.start()
    _works(server.client(), "after_gone")
    queue = Queue(server.state / "queue.db")
    left, waits = queue.find(running.id), queue.find(waiting.id)
    queue.close()
    assert left is not None
    assert waits is not None
    assert (left.state, left.workers, waits.state) == ("parked", 0, "queued")
    assert "gone" in left.message
    assert "gone" in waits.message
