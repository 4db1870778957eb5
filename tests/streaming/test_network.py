"""A viewer and a kernel on two machines: slow links, cuts, viewers that stop or die. No plane is wrong or missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from openhcs_jupyter.engine import Run
from openhcs_jupyter.functions import max_projection
from openhcs_jupyter.pipeline import Step
from openhcs_jupyter.streaming import PlaneRequest
from openhcs_jupyter.streaming.folder import FolderSource
from openhcs_jupyter.streaming.keys import ConnectionFile, read_private
from tests.engine.bench import Bench, until
from tests.streaming.functions import hold
from tests.streaming.heard import Heard, Truth, digest
from tests.streaming.network import KERNEL_ADDRESS, Network, can_make_networks, network

pytestmark = pytest.mark.skipif(not can_make_networks(), reason="only root makes network namespaces, with ip and tc")

DELAY_S = "0.01"
CUT_S = float(os.environ.get("OPENHCS_TEST_CUT_S", "3"))
BIG = {"size": (600, 700), "z": 1, "fields": 3}


@pytest.fixture
def cable() -> Iterator[Network]:
    with network() as made:
        yield made


class Sides:
    """A kernel's program on one machine, viewers' programs on the other."""

    def __init__(self, cable: Network, folder: Path) -> None:
        self.cable = cable
        self.folder = folder
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def kernel(self, *runs: Run) -> subprocess.Popen[str]:
        folders = [str(run.folder) for run in runs]
        process = self._opened.enter_context(
            self.cable.started("kernel", "kernel", str(self.folder / "k"), KERNEL_ADDRESS, *folders)
        )
        assert line(process) == {"ready": True}
        return process

    def viewer(self, runs: int = 1, *, delayed: bool = False) -> subprocess.Popen[str]:
        file = self.folder / "k" / "connection.json"
        addresses: list[str] = []
        if delayed:
            endpoint = read_private(file, ConnectionFile).endpoints[1]
            for port, address in ((46001, endpoint.control), (46002, endpoint.news)):
                target = address.rpartition(":")[2]
                relay = self._opened.enter_context(
                    self.cable.started("viewer", "relay", str(port), KERNEL_ADDRESS, target, DELAY_S)
                )
                assert line(relay) == {"ready": True}
                addresses.append(f"tcp://127.0.0.1:{port}")
        return self._opened.enter_context(self.cable.started("viewer", "viewer", str(file), str(runs), *addresses))


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the next line that a side says."""
    text = process.stdout.readline()
    assert text, "the other side has ended"
    found: dict[str, Any] = json.loads(text)
    return found


def said(process: subprocess.Popen[str], what: str) -> Any:
    """Read lines until one says something."""
    while True:
        found = line(process)
        if what in found:
            return found[what]


def truth(*runs: Run) -> dict[str, str]:
    """Return what a viewer has to have at the end."""
    expected = {}
    for run in runs:
        with FolderSource(run.folder) as source:
            heard = Heard(source)
            heard.until_ended()
            for a in heard.stacks().values():
                request = PlaneRequest(run=a.run, layer=a.layer, well=a.well, field=a.field, t=0, z=0)
                expected[f"{a.run} {a.layer} {a.well} {a.field} 0 0"] = digest(Truth(run).plane(heard.view(), request))
    return expected


def test_a_slow_cable(make_bench: Callable[..., Bench], cable: Network, tmp_path: Path) -> None:
    run = make_bench(**BIG).done(Step(max_projection, save=True))
    cable.limit("100mbit")
    with Sides(cable, tmp_path) as sides:
        sides.kernel(run)
        assert said(sides.viewer(delayed=True), "digests") == truth(run)


def test_the_cable_is_cut_in_the_middle(make_bench: Callable[..., Bench], cable: Network, tmp_path: Path) -> None:
    bench = make_bench(**BIG)
    gate = tmp_path / "gate"
    first = bench.done(Step(max_projection, save=True), name="first")
    second = bench.start(Step(hold, {"gate": str(gate)}, save=True), name="second")
    cable.limit("20mbit")
    with Sides(cable, tmp_path) as sides:
        sides.kernel(first, second)
        viewer = sides.viewer(2, delayed=True)
        assert said(viewer, "link") == "connecting"
        assert said(viewer, "link") == "connected"
        until(lambda: planes(viewer) > 2, "some planes")
        cable.cut()
        began = time.monotonic()
        gate.touch()
        second.result()
        before = planes(viewer)
        assert before < 24
        until(lambda: time.monotonic() - began > CUT_S, "the cut to last")
        cable.mend()
        assert said(viewer, "digests") == truth(first, second)


def test_a_viewer_that_is_stopped_and_one_that_is_killed(
    make_bench: Callable[..., Bench], cable: Network, tmp_path: Path
) -> None:
    bench = make_bench(**BIG)
    gate = tmp_path / "gate"
    run = bench.start(Step(hold, {"gate": str(gate)}, save=True))
    with Sides(cable, tmp_path) as sides:
        kernel = sides.kernel(run)
        stopped, killed, watching = sides.viewer(), sides.viewer(), sides.viewer()
        for viewer in (stopped, killed, watching):
            while said(viewer, "link") != "connected":
                pass
        for pid in _below(stopped):
            os.kill(pid, signal.SIGSTOP)
        before = _memory(kernel)
        gate.touch()
        for pid in _below(killed):
            os.kill(pid, signal.SIGKILL)
        run.result()
        expected = truth(run)
        assert said(watching, "digests") == expected
        assert _memory(kernel) - before < 40 << 20
        for pid in _below(stopped):
            os.kill(pid, signal.SIGCONT)
        assert said(stopped, "digests") == expected


def planes(viewer: subprocess.Popen[str]) -> int:
    """Ask a viewer how many planes it has."""
    viewer.stdin.write("planes?\n")
    viewer.stdin.flush()
    return int(said(viewer, "planes"))


def _below(process: subprocess.Popen[str]) -> list[int]:
    """List a process and those that it became or started."""
    found = psutil.Process(process.pid)
    return [found.pid, *(child.pid for child in found.children(recursive=True))]


def _memory(process: subprocess.Popen[str]) -> int:
    """Return the memory of a process that no file stands behind."""
    return sum(psutil.Process(pid).memory_full_info().uss for pid in _below(process))
