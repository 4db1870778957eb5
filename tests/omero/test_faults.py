"""Runs that are killed, or whose server goes away, at any moment of writing: what OMERO has in the end is the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.images import write_image
from openhcs_jupyter.repository.omero.markers import marker_of
from tests.omero.lab import Lab
from tests.omero_standin.binary import BinaryRepository, Planes
from tests.omero_standin.store import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif("OMERO_HOST" in os.environ, reason="the server is killed, and its database looked into"),
]
_ROOT = Path(__file__).parents[2]
_SERVER = ("Session", "Experimenter", "ExperimenterGroup", "GroupExperimenterMap", "StatsInfo")
_WRITES = re.compile(r"^(RawPixels\.set|Update\.|Pixels\.createImage|SharedResources\.newTable|RawFiles\.write|submit)")

_RUN = """
import sys
import numpy as np
from openhcs_jupyter import Labels, Step, Table
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import fork_server, run
from openhcs_jupyter.functions import max_projection, measure_objects
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository import connect
from openhcs_jupyter.topology import discover

def blobs(stack):
    labels = np.zeros(stack.shape, np.int32)
    for label in range(1, 9):
        labels[:, 2 * label : 2 * label + 2, 3:9] = label
    return stack, labels

steps = [
    Step(max_projection, save=True, name="mip"),
    Step(blobs, channel="DAPI", outputs=Labels("nuclei")),
    Step(measure_objects, inputs={"labels": "nuclei"}, outputs=Table("nuclei")),
]
if __name__ == "__main__":
    with connect(sys.argv[1]) as repository:
        plate = repository.plate("drawn")
    plan = compile(Pipeline(steps, name="spots"), plate, discover(), save=True, workers=2)
    done = run(plan, resume="last" if sys.argv[2:] else None).result()
    print(done.status, done.failures, flush=True)
    fork_server().stop()
"""


class Runs:
    """Runs of one pipeline in processes of their own, on a laboratory that is their own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setenv("OPENHCS_DATA_DIR", str(folder / "data"))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        self.lab = Lab(folder / "server")
        (folder / "pipeline_of_test.py").write_text(_RUN)
        self._folder = folder
        self._before: Counter[tuple[str, str]] = Counter()

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", str(self._folder / "pipeline_of_test.py"), self.lab.uri("ada")]
        environment = os.environ | {"PYTHONPATH": str(_ROOT)}
        return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment)

    def written(self) -> int:
        """Count the calls that wrote something, since this was last asked."""
        calls = self.lab.server.ask(calls=True)["calls"]
        return sum(number for call, number in calls.items() if _WRITES.match(call))

    def wait_for(self, run: subprocess.Popen[str], writes: int) -> None:
        """Wait until so much was written."""
        seen, until = 0, time.monotonic() + 60
        while seen < writes and run.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.005)
            seen += self.written()

    def content(self) -> Counter[tuple[str, str]]:
        """Return what is in OMERO, but for ids and times; the server is stopped for good."""
        self.lab.server.kill()
        store = Store(self._folder / "server" / "database.log")
        repository = BinaryRepository(self.lab.server.binary_repository)
        found: Counter[tuple[str, str]] = Counter()
        for record in store.all("IObject"):
            if record.kind in _SERVER:
                continue
            texts = [record.values.get(name) for name in ("name", "description", "ns", "path", "textValue", "bytes")]
            if record.kind == "Pixels":
                planes = Planes(store, repository, record)
                texts.append(str([int(planes.read(0, c, z).sum()) for c, z in np.ndindex(planes.shape[1:3])]))
            # What it refers to, by kind: an image in no well, or an annotation of nothing, is told from others.
            refers = sorted(other.kind for other, _ in store.referring(record.key))
            text = f"{texts} {refers}".replace(str(self._folder), "")
            found[record.kind, re.sub(r"\d{8}-\d{6}[\w.-]*", "RUN", text)] += 1
        store.close()
        return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Counter[tuple[str, str]], int]:
    """Return what an undisturbed run leaves, and how often it writes."""
    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(tmp_path_factory.mktemp("undisturbed"), patch)
        with runs.lab.server, runs.lab.join("ada"):
            run = runs.start()
            assert run.communicate(timeout=120)[0].split()[0] == "done"
            writes = runs.written()
            return runs.content(), writes


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    made = Runs(tmp_path, monkeypatch)
    with made.lab.server, made.lab.join("ada"):
        yield made


def moments(count: int) -> list[float]:
    """Choose moments of a run; another choice in each run of the tests, told where one fails."""
    chance = random.Random()
    return [round((number + chance.random()) / count, 3) for number in range(count)]


@pytest.mark.parametrize("moment", moments(3), ids=["early", "midway", "late"])
def test_a_run_that_was_killed_goes_on_without_duplicates(
    runs: Runs, expected: tuple[Counter[tuple[str, str]], int], moment: float
) -> None:
    whole, writes = expected
    first = runs.start()
    runs.wait_for(first, max(1, int(moment * writes)))
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    told = runs.start("resume").communicate(timeout=120)[0]
    if not told:  # it had just ended
        assert first.returncode == 0
    else:
        assert told.startswith("done ()"), told
    assert difference(whole, runs.content()) == {}


@pytest.mark.parametrize("moment", moments(2), ids=["early", "late"])
def test_a_run_goes_on_when_the_server_was_away(
    runs: Runs, expected: tuple[Counter[tuple[str, str]], int], moment: float
) -> None:
    whole, writes = expected
    run = runs.start()
    runs.wait_for(run, max(1, int(moment * writes)))
    runs.lab.server.kill()
    back = threading.Timer(2.0, runs.lab.server.start)
    back.start()
    told = run.communicate(timeout=120)[0]
    back.join()
    assert told.startswith("done ()"), told
    assert difference(whole, runs.content()) == {}


def difference(wanted: Counter[tuple[str, str]], found: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return {what: found[what] - wanted[what] for what in wanted | found if found[what] != wanted[what]}


def test_what_the_server_did_though_its_answer_was_lost_is_not_there_twice(runs: Runs) -> None:
    first = runs.start()
    runs.wait_for(first, 4)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    with OmeroRepository(runs.lab.uri("ada")) as ada:
        (folder,) = [path for path in ada.runs_folder.iterdir() if path.is_dir()]
        group = {"omero.group": str(ada.connection.group)}
        marker = marker_of(folder.name)
        stray = write_image(
            ada.connection.session, "stray", f"{marker} mip H12 field 7", np.zeros((1, 1, 1, 4, 4), np.uint8),
            [_channel("DAPI")], (None, None), group,
        )  # fmt: skip
        assert runs.start("resume").communicate(timeout=120)[0].startswith("done ()")
        assert stray not in [image for (image,) in _ask(ada, "select i.id from Image i")]


def _channel(name: str) -> Any:
    from openhcs_jupyter.model import Channel

    return Channel(name=name)


def _ask(repository: OmeroRepository, query: str) -> list[list[Any]]:
    from openhcs_jupyter.repository.omero.queries import ask

    look: Callable[[Any], list[list[Any]]] = lambda session: ask(session, query, repository.connection.everywhere)  # noqa: E731
    return repository.connection.call(look)
