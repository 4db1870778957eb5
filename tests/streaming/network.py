"""Two machines made of network namespaces: a cable of a given rate between them, a delay, and a knife for the cable."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
KERNEL_ADDRESS, VIEWER_ADDRESS = "10.91.7.1", "10.91.7.2"
_ENDS_S = 20


def can_make_networks() -> bool:
    """Tell whether this user may make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("tc") is not None


class Network:
    """Two namespaces, ``kernel`` and ``viewer``, joined by a veth pair."""

    def __init__(self, name: str) -> None:
        self._names = {"kernel": f"{name}k", "viewer": f"{name}v"}

    def command(self, side: str, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self._names[side], *words]

    def python(self, side: str, *words: str, cpu: int | None = None) -> list[str]:
        pin = ["taskset", "-c", str(cpu)] if cpu is not None else []
        return self.command(side, *pin, sys.executable, "-m", "tests.streaming.sides", *words)

    def limit(self, rate: str) -> None:
        """Let the cable carry so much, such as ``100mbit``, in both directions."""
        for side in self._names:
            _do(*self.command(side, "tc", "qdisc", "replace", "dev", side, "root", "tbf"),
                "rate", rate, "burst", "64kb", "latency", "200ms")  # fmt: skip

    def cut(self) -> None:
        _do(*self.command("kernel", "ip", "link", "set", "kernel", "down"))

    def mend(self) -> None:
        _do(*self.command("kernel", "ip", "link", "set", "kernel", "up"))

    @contextmanager
    def started(self, side: str, *words: str, cpu: int | None = None) -> Iterator[subprocess.Popen[str]]:
        """Start a side's program; it ends when its input does."""
        with running(self.python(side, *words, cpu=cpu)) as process:
            yield process


@contextmanager
def running(command: list[str], **how: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a program that speaks through its standard streams, and end it."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT, **how
    )
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_ENDS_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def network() -> Iterator[Network]:
    """Make two namespaces and the cable, and remove them."""
    made = Network(f"ohcs{secrets.token_hex(2)}")
    names = made._names
    try:
        for name in names.values():
            _do("ip", "netns", "add", name)
        _do("ip", "link", "add", "kernel", "netns", names["kernel"], "type", "veth",
            "peer", "name", "viewer", "netns", names["viewer"])  # fmt: skip
        for side, address in (("kernel", KERNEL_ADDRESS), ("viewer", VIEWER_ADDRESS)):
            _do(*made.command(side, "ip", "address", "add", f"{address}/24", "dev", side))
            for device in ("lo", side):
                _do(*made.command(side, "ip", "link", "set", device, "up"))
        yield made
    finally:
        for name in names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
