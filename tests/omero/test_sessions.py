"""Sessions that outlive what happens in hours of computing: a kernel that answers nothing, a server that is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.errors import RepositoryError
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.address import parse_address
from openhcs_jupyter.repository.omero.queries import PLATES, ask
from openhcs_jupyter.repository.omero.sessions import Connection, SessionEndedError
from tests.omero.lab import Lab

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("OMERO_HOST" in os.environ, reason="sessions of a real server last ten minutes"),
]
_IDLE_S = 3
_ROOT = Path(__file__).parents[2]

# ctypes.PyDLL calls C without letting go of the interpreter, as a long computation in C may.
_STARVED = """
import ctypes, sys, threading
from openhcs_jupyter.repository.omero import OmeroRepository
with OmeroRepository(sys.argv[1]) as repository:
    repository.reach()
    key = repository.connection.key
    print("joined", flush=True)
    sys.stdin.readline()
    ctypes.PyDLL(None).sleep(int(sys.argv[2]))
    assert {plate.name for plate in repository.plates()} == {"drawn", "acquired"}
    assert repository.connection.key == key
"""

_KILLED = """
import sys
from openhcs_jupyter.repository.omero import OmeroRepository, keeping
repository = OmeroRepository(sys.argv[1])
repository.reach()
(kept,) = keeping._keepers.values()
print(kept[1].pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("omero"), _IDLE_S) as made:
        yield made


def wait_until(found: Callable[[], object], within_s: float = 20) -> None:
    until = time.monotonic() + within_s
    while not found():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.02)


def has_ended(process: Path) -> bool:
    try:
        return "State:\tZ" in (process / "status").read_text()
    except OSError:
        return True


def test_computing_that_holds_the_interpreter_does_not_end_the_session(lab: Lab, ada: OmeroRepository) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _STARVED, lab.uri("ada"), str(2 * _IDLE_S)]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "joined\n"
        ada.connection.close()  # only the other process keeps the session
        other.communicate("\n", timeout=60)
    assert other.returncode == 0


def test_a_session_that_nobody_keeps_ends(lab: Lab, ada: OmeroRepository) -> None:
    ada.connection._let_go()
    time.sleep(_IDLE_S + 1)  # what is tested is time that passes
    with pytest.raises(RepositoryError, match=r"has ended\.\n  Connect again"):
        ada.plates()


def test_what_keeps_the_session_ends_with_a_kernel_that_is_killed(lab: Lab, ada: OmeroRepository) -> None:
    command = [sys.executable, "-W", "ignore", "-c", _KILLED, lab.uri("ada")]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as kernel:
        assert kernel.stdout is not None
        keeper = Path("/proc") / kernel.stdout.readline().strip()
        assert "keep_alive" in (keeper / "cmdline").read_text()
        kernel.send_signal(signal.SIGKILL)
    wait_until(lambda: has_ended(keeper))


def test_keys_are_on_no_command_line(ada: OmeroRepository) -> None:
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert ada.connection.key not in process.read_text()
        except OSError:
            continue


def test_no_session_is_one_that_has_ended(lab: Lab) -> None:
    with pytest.raises(SessionEndedError, match="has ended"):
        Connection(parse_address(lab.uri("ada")), key="", patience_s=600)


def test_who_connects_again_gives_a_run_its_session_back(lab: Lab, ada: OmeroRepository) -> None:
    lab.server.ask(close_sessions=True)
    with pytest.raises(RepositoryError, match="has ended"):
        ada.plates()
    with lab.join("ada") as again:
        assert {plate.name for plate in ada.plates()} == {"drawn", "acquired"}
        assert ada.connection.key == again.connection.key


def test_a_run_waits_for_a_server_that_is_away(lab: Lab, ada: OmeroRepository) -> None:
    lab.server.kill()
    done: list[object] = []
    waiting = threading.Thread(
        target=lambda: done.append(ada.connection.call(lambda session: ask(session, PLATES, {}), patience_s=60))
    )
    waiting.start()
    with pytest.raises(RepositoryError, match="No OMERO server answers"):
        lab.join("ada").plates()  # who asks at a prompt is told at once
    assert not done
    lab.server.start()
    waiting.join(60)
    assert done


def test_threads_that_find_the_session_broken_join_it_once(lab: Lab, ada: OmeroRepository) -> None:
    lab.server.kill()
    lab.server.start()
    lab.server.ask(calls=True)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(len(ada.plates()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [2] * 8
