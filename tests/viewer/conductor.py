"""A process that conducts runs, one after another: ``python -m tests.viewer.conductor``."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path


def main() -> None:
    """Do ``openhcs-jupyter WORDS`` for each line, a list of words in JSON, and answer with the exit code."""
    from openhcs_jupyter.cli import main as command

    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            code = command(json.loads(line))
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


class Conductor:
    """That process, from another one. One that is ended in the middle of a run is followed by a new one."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self.busy = False

    def begin(self, *words: str) -> None:
        """Begin to do a command; the one before has ended."""
        assert not self.busy
        if self._process is None:
            with self._log.open("a") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.viewer.conductor"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                )  # fmt: skip
        self.busy = True
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """Wait for the end of a command; returns its exit code."""
        line = self._process.stdout.readline()
        self.busy = False
        assert line, self._log.read_text()
        return int(line)

    def end(self) -> None:
        """End the process with what it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process, self.busy = None, False


if __name__ == "__main__":
    main()
