"""Has sessions kept alive by a process of its own: a kernel that computes for hours may answer nothing meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from openhcs_jupyter.repository.omero.address import Address

_PROGRAM = Path(__file__).with_name("keep_alive.py")
_lock = threading.Lock()
_keepers: dict[str, tuple[int, subprocess.Popen[str]]] = {}
"""By key: how many of this process's connections use the session, and what keeps it."""


def keep(address: Address, key: str, every_s: float) -> None:
    """Have a session kept alive until `let_go` is called as often as this, or this process ends."""
    with _lock:
        users, keeper = _keepers.get(key, (0, None))
        if keeper is None or keeper.poll() is not None:
            keeper = _started(address, key, every_s)
        _keepers[key] = (users + 1, keeper)


def let_go(key: str) -> None:
    """Say that a connection needs its session no more."""
    with _lock:
        if key not in _keepers:
            return
        users, keeper = _keepers.pop(key)
        if users > 1:
            _keepers[key] = (users - 1, keeper)
            return
        _end(keeper)


def _started(address: Address, key: str, every_s: float) -> subprocess.Popen[str]:
    keeper = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-W", "ignore", "-P", os.fspath(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert keeper.stdin is not None
    with suppress(BrokenPipeError):
        keeper.stdin.write(
            json.dumps({"host": address.host, "port": address.port, "key": key, "every_s": every_s}) + "\n"
        )
        keeper.stdin.flush()
    return keeper


def _end(keeper: subprocess.Popen[str]) -> None:
    assert keeper.stdin is not None
    with suppress(BrokenPipeError):
        keeper.stdin.close()  # its input ends, and so does it
    try:
        keeper.wait(1.0)
    except subprocess.TimeoutExpired:
        keeper.kill()  # it waits for a server that does not answer
        keeper.wait()
