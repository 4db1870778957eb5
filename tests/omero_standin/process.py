"""The stand-in as a process of its own, for tests: started, asked, killed, started again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]


class StandIn:
    """A running stand-in; a context manager.

    Parameters
    ----------
    folder
        Filled by `tests.omero_standin.sample.Sample`.
    options
        Of the server's command line, such as ``--idle 2``.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = 0
        self.insecure_port = 0
        self._options = options
        self._process: subprocess.Popen[str] | None = None

    @property
    def binary_repository(self) -> Path:
        """Its data directory."""
        return self.folder / "OMERO"

    def start(self) -> None:
        """Start it, on the ports it had before."""
        command = [sys.executable, "-m", "tests.omero_standin.server", str(self.folder), *self._options]
        command += ["--port", str(self.port), "--insecure-port", str(self.insecure_port)]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        ports = self._answer()
        self.port, self.insecure_port = ports["port"], ports["insecure_port"]

    def ask(self, **what: Any) -> dict[str, Any]:
        """Ask for its ``calls``; have it ``close_sessions``, read only after ``slow_s``, or have ``no_pyramids``."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the stand-in ended; see {self.folder / 'server.log'}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
