"""How benchmarks run things in processes of their own: environment, answers, CPU and memory of a whole process tree."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHECKOUT = Path(__file__).resolve().parent.parent
SCRATCH = CHECKOUT / ".bench"

_PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS", "NUMBA_NUM_THREADS")


def pin_threads() -> None:
    """Keep the numerical libraries of this process to one thread each; called before they are imported."""
    for name in _PINNED:
        os.environ[name] = "1"


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a benchmark's process: one thread a library, no settings of the user, this checkout.

    Bytecode is kept, as that of installed packages is, also by a process that adds this to what the shell says.
    """
    own = {name: value for name, value in os.environ.items() if not name.startswith("OPENHCS_")}
    own |= dict.fromkeys(_PINNED, "1")
    own |= {
        "PYTHONPATH": str(CHECKOUT),
        "PYTHONDONTWRITEBYTECODE": "",
        "XDG_CONFIG_HOME": str(SCRATCH / "config"),
        "OPENHCS_DATA_DIR": str(SCRATCH / "data"),
        "OPENHCS_CPU_ONLY": "1",
        "QT_QPA_PLATFORM": "offscreen",
    }
    return own | dict(more or {})


def call(module: str, *arguments: object, python: Path | str = sys.executable) -> dict[str, Any]:
    """Run ``python -m module`` to its end and return the JSON of its last line.

    Raises
    ------
    RuntimeError
        If it fails; with the end of what it wrote.
    """
    command = [str(python), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment(), capture_output=True, text=True, check=False)
    return _answer(command, done.returncode, done.stdout, done.stderr)


class Arm:
    """A process that stays, and does its work each time it is asked; a context manager.

    The module reads one line of JSON for every request and answers with one line.
    """

    def __init__(self, module: str, *arguments: object, python: Path | str = sys.executable) -> None:
        self._command = [str(python), "-m", module, *map(str, arguments)]
        self._process = subprocess.Popen(
            self._command, cwd=CHECKOUT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: object) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{' '.join(self._command)} ended with {self._process.wait()} before it answered")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def answer(**values: object) -> None:
    """Answer a request, or end a process that was called."""
    print(json.dumps(values), flush=True)


def cpu_seconds() -> float:
    """Return the CPU time of this process, of its children that are alive and of those that have ended."""
    import psutil

    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue
        used += times.user + times.system + times.children_user + times.children_system
    return used


class PeakMemory:
    """The peak of a process tree's anonymous and shared memory; maps of files are not counted; a context manager.

    Pages that several processes share are counted once: each process's proportional share is added up.

    Parameters
    ----------
    pid
        Root of the tree.
    every_s
        Time between two looks.
    """

    def __init__(self, pid: int, every_s: float = 0.02) -> None:
        self.bytes = 0
        self.looks = 0
        self._pid = pid
        self._every = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def look(self) -> int:
        """Return the memory of the tree now, in bytes."""
        return sum(_anonymous_and_shared(pid) for pid in _tree(self._pid))

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            self.bytes = max(self.bytes, self.look())
            self.looks += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def wait_until_quiet(load: float = 0.3, longest_s: float = 120.0) -> float:
    """Wait until other processes leave the cores alone; returns how many cores are busy then.

    What an earlier arm wrote is brought to the disk first, so that no arm pays for another's.
    """
    import psutil

    os.sync()
    end = time.monotonic() + longest_s
    while True:
        busy = psutil.cpu_percent(1.0) / 100 * (psutil.cpu_count() or 1)
        if busy <= load or time.monotonic() > end:
            return busy


def _answer(command: list[str], status: int, out: str, error: str) -> dict[str, Any]:
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if status or not lines:
        raise RuntimeError(f"{' '.join(command)} ended with {status}\n{out[-1000:]}\n{error[-3000:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _tree(root: int) -> list[int]:
    """List a process and everything below it; cheaper than psutil, which reads every process of the machine."""
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def _anonymous_and_shared(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) << 10
