"""Batches on the machine that SSH reached: each is a process of its own, which no cut of the connection ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

import msgspec
import platformdirs
import psutil

from openhcs_jupyter.errors import OpenHCSError, UsageError
from openhcs_jupyter.kernel.executing import FAILED, Executed, execute
from openhcs_jupyter.streaming.keys import private_folder, write_private

MARK = "OPENHCS-BATCH "
_TICK_S = 0.2


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done."""

    name: str
    notebook: str
    parameters: dict[str, int | float | str | None] = {}


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was done."""

    name: str
    executed: Executed
    left: str = ""
    """Folder of what the cells wrote; empty if they wrote nothing into theirs."""


class _Process(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    began: float


def main(words: list[str]) -> int:
    """Do ``start``, ``follow ID BYTES``, ``fetch ID``, ``forget ID`` or ``stop ID``."""
    command, *rest = words
    if command == "start":
        return start(msgspec.json.decode(sys.stdin.buffer.readline(), type=Order))
    folder = _places() / Path(rest[0]).name
    if not folder.is_dir():
        sys.stderr.write(f"There is no batch {rest[0]}.\n")
        return 2
    if command == "follow":
        return follow(folder, int(rest[1]))
    if command == "fetch":
        return fetch(folder)
    if command == "forget":
        return forget(folder)
    return stop(folder)


def start(order: Order) -> int:
    """Begin a batch in the background, and say its id."""
    stem = "".join(letter if letter.isalnum() else "-" for letter in order.name)[:40]
    folder = private_folder(_places() / f"{time.strftime('%Y%m%d-%H%M%S')}-{stem}-{secrets.token_hex(2)}")
    work = private_folder(folder / "work")
    sys.stdout.write(f"{MARK}{folder.name}\n")
    sys.stdout.flush()
    if os.fork():
        return 0
    os.setsid()
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    silence = os.open(os.devnull, os.O_RDONLY)
    for stream, file in ((0, silence), (1, log), (2, log)):
        os.dup2(file, stream)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)
    write_private(folder / "process.json", _Process(pid=os.getpid(), began=psutil.Process().create_time()))
    try:
        executed = execute(order.notebook, work, order.parameters, _write)
    except BaseException as error:  # noqa: BLE001 - whoever follows is to hear of it
        _write(f"{error}\n" if isinstance(error, OpenHCSError) else traceback.format_exc())
        executed = Executed(code=FAILED, notebook=order.notebook, html="")
    left = str(work) if any(work.iterdir()) else ""
    write_private(folder / "result.json", Result(name=order.name, executed=executed, left=left))
    os._exit(0)


def follow(folder: Path, begun: int) -> int:
    """Write a batch's log from a byte on until it ends; returns the batch's exit code."""
    _write(f"{MARK}\n")
    while True:
        ended = (folder / "result.json").exists() or not _runs(folder)
        if (folder / "log").exists():
            with (folder / "log").open("rb") as log:
                log.seek(begun)
                piece = log.read()
            begun += len(piece)
            sys.stdout.buffer.write(piece)
            sys.stdout.flush()
        if ended:
            break
        time.sleep(_TICK_S)
    result = _result(folder)
    if result is None:
        sys.stdout.write("The batch's process was killed.\n")
        return FAILED
    return result.executed.code


def fetch(folder: Path) -> int:
    """Write a batch's result as a line; it stays until it is known to have arrived."""
    result = _result(folder)
    if result is None:
        return FAILED
    sys.stdout.write(MARK + msgspec.json.encode(result).decode() + "\n")
    sys.stdout.flush()
    return 0


def forget(folder: Path) -> int:
    """Remove a batch that has ended, unless the cells left files there."""
    result = _result(folder)
    if result is not None and not result.left:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def stop(folder: Path) -> int:
    """Interrupt a batch."""
    if _runs(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(msgspec.json.decode((folder / "process.json").read_bytes(), type=_Process).pid, signal.SIGINT)
    return 0


def _places() -> Path:
    return private_folder(Path(platformdirs.user_state_dir("openhcs-jupyter")) / "batch")


def _runs(folder: Path) -> bool:
    file = folder / "process.json"
    if not file.exists():
        return time.time() - folder.stat().st_mtime < 10  # it is only beginning
    process = msgspec.json.decode(file.read_bytes(), type=_Process)
    try:
        found = psutil.Process(process.pid)
        return found.create_time() == process.began and found.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _result(folder: Path) -> Result | None:
    file = folder / "result.json"
    return msgspec.json.decode(file.read_bytes(), type=Result) if file.exists() else None


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal's handler gets both
    raise KeyboardInterrupt


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
