"""The broker as a process of its own, for tests."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Self

from openhcs_jupyter.model import Image
from openhcs_jupyter.repository.omero import OmeroRepository
from openhcs_jupyter.repository.omero.broker.client import BrokerClient
from tests.omero.lab import Lab


class BrokerProcess:
    """`openhcs-jupyter broker` on a stand-in's repository; a context manager."""

    def __init__(self, lab: Lab, *options: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="broker-"))
        self._folder.chmod(0o755)
        self.socket = self._folder / "socket"
        self._command = [sys.executable, "-m", "openhcs_jupyter.cli", "broker", "--socket", str(self.socket)]
        self._command += ["--repository", str(lab.server.binary_repository)]
        self._command += ["--server", f"127.0.0.1:{lab.server.port}", *options]
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[str] = []
        self._said = threading.Condition()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        reader.start()
        self.wait_for("listening at")

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(20)

    def log(self) -> list[str]:
        with self._said:
            return list(self._lines)

    def wait_for(self, text: str, after: int = 0) -> str:
        """Wait for a line that holds a text and return it."""
        with self._said:
            found = self._said.wait_for(lambda: [line for line in self._lines[after:] if text in line], 30)
        assert found, f"the broker never said {text!r}: {self._lines}"
        return found[0]

    def audited(self, text: str) -> dict[str, Any]:
        line: dict[str, Any] = json.loads(self.wait_for(text).partition(" INFO ")[2])
        return line

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                with self._said:
                    self._lines.append(line.rstrip())
                    self._said.notify_all()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder)


def first_image(repository: OmeroRepository, plate: int) -> tuple[str, int, Image]:
    well, field = next(iter(repository.plate(plate).fields()))
    return well.name, field.number, field.images[0]


def client(broker: BrokerProcess, repository: OmeroRepository, patience_s: float = 10.0) -> BrokerClient:
    return BrokerClient(broker.socket, lambda: repository.connection.key, patience_s)
