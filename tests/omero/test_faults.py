"""Runs that are killed, or whose server goes away, at any moment of writing: what OMERO has in the end is the same."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: it needs Ice, see docs/omero.md")

from openhcs_jupyter.model import Channel
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

    def write_stray(self) -> None:
        """Write an image in the name of the only run there is, for a field that it has not."""
        with OmeroRepository(self.lab.uri("ada")) as ada:
            (folder,) = [path for path in ada.runs_folder.iterdir() if path.is_dir()]
            write_image(
                ada.connection.session, "stray", f"{marker_of(folder.name)} mip H12 field 7",
                np.zeros((1, 1, 1, 4, 4), np.uint8), [Channel(name="DAPI")], (None, None),
                {"omero.group": str(ada.connection.group)},
            )  # fmt: skip

    def content(self) -> Counter[tuple[str, str]]:
        """Return what is in OMERO, but for ids and times; the server is stopped for good."""
        self.lab.server.leave()
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
        with runs.lab, runs.lab.join("ada"):
            run = runs.start()
            assert run.communicate(timeout=120)[0].split()[0] == "done"
            writes = runs.written()
            return runs.content(), writes


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runs]:
    made = Runs(tmp_path, monkeypatch)
    with made.lab, made.lab.join("ada"):
        yield made


def moments(count: int) -> list[float]:
    """Choose moments of a run; others each time, told where a test fails."""
    chance = random.Random()
    return [round((number + chance.random()) / count, 3) for number in range(count)]


def test_a_run_that_is_killed_again_and_again_goes_on_without_duplicates(
    runs: Runs, expected: tuple[Counter[tuple[str, str]], int]
) -> None:
    """An image of a call that the server did, though its answer was lost, is there as well."""
    whole, writes = expected
    options: list[str] = []
    for moment in moments(3):
        run = runs.start(*options)
        runs.wait_for(run, max(1, int(moment * writes)))
        run.send_signal(signal.SIGKILL)
        told = run.communicate(timeout=30)[0]
        if run.returncode == 0:  # it had less to write, and had just ended
            break
        if not options:
            runs.write_stray()
        options = ["resume"]
    else:
        told = runs.start(*options).communicate(timeout=120)[0]
    assert told.startswith("done ()"), told
    assert difference(whole, runs.content()) == {}


def test_a_run_goes_on_when_the_server_is_away_again_and_again(
    runs: Runs, expected: tuple[Counter[tuple[str, str]], int]
) -> None:
    whole, writes = expected
    run = runs.start()
    for moment in moments(2):
        runs.wait_for(run, max(1, int(moment * writes / 2)))
        runs.lab.server.kill()
        time.sleep(1.0)  # what is tested is time that passes
        runs.lab.server.start()
    told = run.communicate(timeout=120)[0]
    assert told.startswith("done ()"), told
    assert difference(whole, runs.content()) == {}


def difference(wanted: Counter[tuple[str, str]], found: Counter[tuple[str, str]]) -> dict[tuple[str, str], int]:
    return {what: found[what] - wanted[what] for what in wanted | found if found[what] != wanted[what]}
