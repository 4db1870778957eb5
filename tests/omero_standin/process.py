"""The stand-in as a process of its own, for tests: started, asked, killed, started again."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self

ROOT = Path(__file__).parents[2]


class _Running(NamedTuple):
    """A process and where it listens."""

    process: subprocess.Popen[str]
    port: int
    insecure_port: int

    def ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return _answer(self.process)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


_idle: list[_Running] = []
"""Those that nobody uses: the next stand-in takes one of them, as a start costs more than another folder."""


class StandIn:
    """A running stand-in; a context manager.

    Parameters
    ----------
    folder
        Filled by `tests.omero_standin.sample.Sample`.
    idle_s
        After which an unused session ends.
    """

    def __init__(self, folder: Path, idle_s: float = 600) -> None:
        self.folder = folder
        self.port = 0
        self.insecure_port = 0
        self._idle_s = idle_s
        self._running: _Running | None = None

    @property
    def binary_repository(self) -> Path:
        """Its data directory."""
        return self.folder / "OMERO"

    def start(self) -> None:
        """Start it, on the ports it had before."""
        running = _idle.pop() if _idle and not self.port else _started(self.port, self.insecure_port)
        running.ask({"serve": str(self.folder), "idle_s": self._idle_s})
        self._running, self.port, self.insecure_port = running, running.port, running.insecure_port

    def ask(self, **what: Any) -> dict[str, Any]:
        """Ask for its ``calls``; have it ``close_sessions``, read only after ``slow_s``, or have ``no_pyramids``.

        With ``zarr="served"`` it has the pixel buffer that reads OME-Zarr by ExternalInfo. Without, images whose pixels
        nobody sent are an error, or, with ``zarr="blank"``, zeros.
        """
        assert self._running is not None
        return self._running.ask(what)

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._running is not None:
            self._running.end()
            self._running = None

    def leave(self) -> None:
        """Have it let go of its folder: its sessions are gone, and the next stand-in takes its process."""
        if self._running is not None:
            self._running.ask({"serve": None})
            _idle.append(self._running)
            self._running = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


def _started(port: int, insecure_port: int) -> _Running:
    command = [sys.executable, "-m", "tests.omero_standin.server"]
    command += ["--port", str(port), "--insecure-port", str(insecure_port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    ports = _answer(process)
    return _Running(process, ports["port"], ports["insecure_port"])


def _answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the stand-in ended; see server.log in its folder")
    answer: dict[str, Any] = json.loads(line)
    return answer


@atexit.register
def _end_idle() -> None:
    while _idle:
        _idle.pop().end()
