"""The process that forks workers: it and its workers end with the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from openhcs_jupyter import Step
from openhcs_jupyter.engine import LocalExecutor, fork_server
from openhcs_jupyter.engine.needed import imported_by
from tests.engine import functions
from tests.engine.bench import LONGEST_S, Bench, descendants, ended, lines, lives, until

ROOT = Path(__file__).parents[2]


def living(pid: int) -> list[int]:
    return [child for child in descendants(pid) if lives(child)]


HANGING = """
import sys
import time
from pathlib import Path
from openhcs_jupyter import Step
from openhcs_jupyter.compiler import compile
from openhcs_jupyter.engine import run
from openhcs_jupyter.pipeline import Pipeline
from openhcs_jupyter.repository import connect
from openhcs_jupyter.topology import discover
from tests.engine.functions import note

def hangs(stack, log, pid):
    import os, signal
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note(Path(log), str(os.getpid()))
    while True:
        pass

repository = connect(sys.argv[1])
step = Step(hangs, {"log": sys.argv[2], "pid": 0}, channel="DAPI")
run(compile(Pipeline([step]), repository.plate(1), discover(), workers=2)).wait()
"""
IDLE = """
from openhcs_jupyter.engine import fork_server
fork_server().start()
print(fork_server()._process.pid, flush=True)
input()
"""


@pytest.fixture
def hanging(bench: Bench) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Return a process that conducts a run whose workers hang, and the processes below it."""
    log = bench.folder / "pids"
    command = [sys.executable, "-c", HANGING, bench.repository.uri, str(log)]
    with subprocess.Popen(command, cwd=ROOT) as conductor:
        try:
            until(lambda: len(lines(log)) == 2, "two workers to hang")
            below = descendants(conductor.pid)
            assert {int(pid) for pid in lines(log)} < set(below)
            yield conductor, below
        finally:
            conductor.kill()
            for pid in [int(pid) for pid in lines(log)]:
                if not ended([pid])():
                    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_workers_end_with_their_conductor(hanging: tuple[subprocess.Popen[bytes], list[int]], how: str) -> None:
    conductor, below = hanging
    conductor.send_signal(signal.Signals[how])
    conductor.wait(10)
    until(ended(below), "the workers to end", 10)


@pytest.mark.parametrize("way", ["SIGKILL", "end of its input"])
def test_an_idle_server_ends_with_its_parent(way: str) -> None:
    with subprocess.Popen([sys.executable, "-c", IDLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        server = int(parent.stdout.readline())
        if way == "SIGKILL":
            parent.kill()
        else:
            parent.stdin.close()
        parent.wait(20)
    until(ended([server]), "the server to end", 20)


def test_a_run_after_the_server_was_killed(bench: Bench) -> None:
    bench.done(Step(lambda stack: stack + 1, name="first"))
    server = fork_server()._process
    assert server is not None
    server.kill()
    until(ended([server.pid]), "the server to end")
    started = bench.done(Step(lambda stack: stack + 2, name="second", channel="DAPI"))
    np.testing.assert_array_equal(started.image(well="A01")[0, 0], bench.pixels("A01", 1, 0) + 2)


def test_workers_that_stay_do_the_next_run_too(bench: Bench) -> None:
    log = bench.folder / "pids"

    def noted(stack, log, number):
        functions.note(Path(log), str(os.getpid()))
        return stack + number

    def workers(number: int, *, stay: bool) -> set[str]:
        log.unlink(missing_ok=True)
        step = Step(noted, {"log": str(log), "number": number}, channel="DAPI", name="noted")
        bench.done(step, workers=1, executor=LocalExecutor(workers_stay=stay))
        return set(lines(log))

    first = workers(1, stay=True)
    assert workers(2, stay=True) == workers(3, stay=False) == first
    assert not workers(4, stay=False) & first
    until(ended([int(pid) for pid in first]), "the worker to end")


def test_a_run_whose_server_is_killed_while_it_imports(bench: Bench) -> None:
    fork_server().stop()
    step = Step(lambda stack: stack + 4, name="fourth", channel="DAPI")
    for _ in range(2):
        fork_server().start()
        started = fork_server()._process
        assert started is not None
        started.kill()
        assert not fork_server().ready(20)
    assert bench.done(step).status == "done"


def test_a_server_that_was_stopped_starts_again(bench: Bench) -> None:
    fork_server().stop()
    started = bench.done(Step(lambda stack: stack + 3, name="third", channel="DAPI"))
    np.testing.assert_array_equal(started.image(well="A01")[0, 0], bench.pixels("A01", 1, 0) + 3)


def test_no_worker_is_left_after_a_run(bench: Bench) -> None:
    log = bench.folder / "pids"

    def noted(stack: np.ndarray) -> np.ndarray:
        functions.note(log, str(os.getpid()))
        return stack

    bench.done(Step(noted, name="noted"), run_options={"force": True})
    workers = [int(pid) for pid in lines(log)]
    assert workers
    until(ended(workers), "the workers to end")


class TestSpares:
    """Workers that are forked while nothing runs."""

    @pytest.fixture
    def spares(self, bench: Bench) -> list[int]:
        """Wait until the next run's first worker is there before the run is."""
        log = bench.folder / "earlier"

        def noted(stack: np.ndarray) -> np.ndarray:
            functions.note(log, str(os.getpid()))
            return stack

        bench.done(Step(noted, name="noted"), run_options={"force": True})
        server = fork_server()._process
        assert server is not None
        until(ended([int(pid) for pid in lines(log)]), "the workers to end")
        enough = min(os.cpu_count() or 1, 4)
        return until(lambda: (pids := living(server.pid)) and len(pids) == enough and pids, "spare workers")

    def test_the_next_run_takes_them(self, bench: Bench, spares: list[int]) -> None:
        log = bench.folder / "pids"

        def noted(stack: np.ndarray) -> np.ndarray:
            functions.note(log, str(os.getpid()))
            return stack

        bench.done(Step(noted, name="noted"), workers=1, run_options={"force": True})
        assert {int(pid) for pid in lines(log)} < set(spares)

    def test_one_that_was_killed_costs_nothing(self, bench: Bench, spares: list[int]) -> None:
        for pid in spares:
            os.kill(pid, signal.SIGKILL)
        assert bench.done(Step(functions.negative), run_options={"force": True}).status == "done"

    def test_they_end_with_the_server(self, spares: list[int]) -> None:
        server = fork_server()._process
        assert server is not None
        server.kill()
        until(ended(spares), "the spares to end")

    def test_they_end_when_modules_come_that_they_have_not(self, spares: list[int]) -> None:
        fork_server().load(["wave"])
        until(ended(spares), "the spares to end")

    def test_they_end_also_when_modules_are_expected_that_they_have_not(self, spares: list[int]) -> None:
        fork_server().start(["mailbox"])
        until(ended(spares), "the spares to end")


def test_a_worker_has_what_was_expected(bench: Bench) -> None:
    def looked(stack: np.ndarray) -> np.ndarray:
        assert "pyarrow.dataset" in sys.modules
        return stack

    fork_server().start(["not_there", "pyarrow.dataset"])
    server = fork_server()._process
    assert server is not None
    until(lambda: "/_dataset." in Path(f"/proc/{server.pid}/maps").read_text(), "the process to import")
    assert bench.done(Step(looked, name="looked"), run_options={"force": True}).status == "done"


@pytest.mark.parametrize(
    ("python", "modules"),
    [
        ("import scipy.ndimage as ndi, skimage", ("scipy.ndimage", "skimage")),
        ("from skimage import filters", ("skimage", "skimage.filters")),
        ("def f(image):\n    from cv2 import blur\n    return blur(image, (3, 3))", ("cv2", "cv2.blur")),
        ("import os, torch, cupy\nfrom . import something\nfrom functions_of_mine import one", ()),
        ("import skimage, ", ()),
    ],
)
def test_what_a_text_imports_from_installed_packages(python: str, modules: tuple[str, ...]) -> None:
    assert imported_by(python) == modules


def test_threads_of_a_worker_share_one_heap_of_large_pages(bench: Bench) -> None:
    def looked(stack: np.ndarray) -> np.ndarray:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        heaps = [at for at, line in enumerate(lines) if line.endswith("[heap]")]
        bounds = [[int(word, 16) for word in lines[at].split()[0].split("-")] for at in heaps]
        assert any(low <= stack.ctypes.data < high for low, high in bounds)  # another thread has read it
        flags = [next(line for line in lines[at:] if line.startswith("VmFlags")).split() for at in heaps]
        assert any("hg" in words for words in flags)
        return stack

    assert bench.done(Step(looked, name="looked"), run_options={"force": True}).status == "done"


def test_no_file_stays_open_after_runs(bench: Bench) -> None:
    def opened() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    for number in range(2):
        bench.done(Step(lambda stack, number=number: stack + number, name="warm"))
    before = opened()
    for number in range(5):
        bench.done(Step(lambda stack, number=number: stack - number, name="more"))
    assert opened() <= before + 1


def test_a_forked_child_has_a_server_of_its_own(bench: Bench) -> None:
    fork_server().start()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"none" if fork_server()._process is None else b"some")
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reader, 4) == b"none"
    os.close(reader)
    os.close(writer)
    assert bench.done(Step(lambda stack: stack + 5, name="fifth")).status == "done"


def test_a_run_is_cancelled_also_before_its_workers_are_ready(bench: Bench) -> None:
    fork_server().stop()
    started = bench.start(Step(functions.negative), run_options={"force": True})
    begin = time.monotonic()
    started.cancel()
    assert started.wait(LONGEST_S)
    # A cold start imports for more than a second; the promise is half a second, the rest is for a busy machine.
    assert time.monotonic() - begin < 1.5
    assert started.status == "cancelled"
