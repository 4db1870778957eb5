"""Starts a kernel on the machine that SSH reached, stays beside it, and clears up behind it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import msgspec

from openhcs_jupyter import __version__
from openhcs_jupyter.streaming.keys import private_folder, short_folder

PORTS = ("shell_port", "iopub_port", "stdin_port", "hb_port", "control_port")
LINE = "OPENHCS_LINE"
KEEPER = "OPENHCS_KEEPER"
IDLE = "OPENHCS_IDLE_S"
_START_S = 60.0
_TICK_S = 0.02
_ENDS_S = 5.0
_VERDICT_S = 10.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the laptop asks for, on standard input."""

    key: str
    """Of the kernel's messages."""
    scheme: str
    file: str = ""
    """The connection file of the kernel that this one comes after; empty where it is the first."""
    idle_s: float
    """After so long without a client the kernel ends, unless something runs."""
    folder: str = ""
    """Where the kernel works; empty is the home."""


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What the keeper answers, in one line behind `MARK`; whatever else a login prints does not matter."""

    version: str = __version__
    keeper: int = 0
    """Process that looks after the kernel."""
    kernel: int = 0
    """The kernel's process."""
    file: str = ""
    """The kernel's connection file."""
    sockets: dict[str, str] = {}
    """The kernel's sockets by the names of their ports, and its ``line``."""
    error: str = ""
    """Why there is no kernel."""


MARK = "OPENHCS-KERNEL "


def main() -> int:
    """Read an order, start the kernel in the background, answer, and leave the keeper behind."""
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    read, write = os.pipe()
    if os.fork():
        os.close(write)
        with os.fdopen(read) as answer:
            sys.stdout.write(answer.read())
        sys.stdout.flush()
        return 0
    os.close(read)
    os.setsid()
    try:
        Keeper(order).keep(write)
    except BaseException:  # noqa: BLE001 - nobody else would hear of it
        with contextlib.suppress(OSError):
            _answer(write, Started(error=traceback.format_exc()))
    os._exit(0)


class Keeper:
    """Looks after one kernel.

    Parameters
    ----------
    order
        Which.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._file = Path(order.file) if order.file else _new_file()
        self._folder = private_folder(self._file.with_suffix(".openhcs"))
        self._place = short_folder(self._folder)
        self._verdict = ""

    def keep(self, answer: int) -> None:
        """Start the kernel, tell it, and wait for its end."""
        for number, verdict in ((signal.SIGTERM, "end"), (signal.SIGINT, "restart")):
            signal.signal(number, lambda _n, _f, verdict=verdict: self._decide(verdict))  # type: ignore[misc]  # a default binds the verdict
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._write_file()
        log = self._folder / "kernel.log"
        kernel = self._start(log)
        try:
            self._wait_until_bound(kernel, log)
        except RuntimeError as error:
            self._end(kernel)
            self._clear()
            _answer(answer, Started(error=str(error)))
            return
        _answer(answer, self._started(kernel.pid))
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        while kernel.poll() is None and not self._verdict:
            self._nap(kernel)
        self._end(kernel)
        until = time.monotonic() + _VERDICT_S
        while not self._verdict and time.monotonic() < until:
            time.sleep(_TICK_S)  # whether another kernel follows is said after this one's end
        self._clear(wholly=self._verdict != "restart")

    def _decide(self, verdict: str) -> None:
        self._verdict = verdict

    def _nap(self, kernel: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            kernel.wait(0.5)

    def _write_file(self) -> None:
        ports = {name: number for number, name in enumerate(PORTS, 1)}
        content = {
            "transport": "ipc",
            "ip": str(self._place / "k"),
            "key": self._order.key,
            "signature_scheme": self._order.scheme,
            "kernel_name": "openhcs",
            **ports,
        }
        for socket in self._sockets().values():
            Path(socket).unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)
        with os.fdopen(os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(content))

    def _sockets(self) -> dict[str, str]:
        sockets = {name: str(self._place / f"k-{number}") for number, name in enumerate(PORTS, 1)}
        return sockets | {"line": str(self._place / "line")}

    def _started(self, kernel: int) -> Started:
        return Started(keeper=os.getpid(), kernel=kernel, file=str(self._file), sockets=self._sockets())

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        from openhcs_jupyter.kernel.install import kernel_command

        command = [word.replace("{connection_file}", str(self._file)) for word in kernel_command()]
        environment = os.environ | {
            LINE: self._sockets()["line"],
            KEEPER: str(os.getpid()),
            IDLE: str(self._order.idle_s),
        }
        with log.open("wb") as output:
            return subprocess.Popen(  # noqa: S603 - our own words, and no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=Path(self._order.folder).expanduser() if self._order.folder else Path.home(),
                start_new_session=True,
            )

    def _wait_until_bound(self, kernel: subprocess.Popen[bytes], log: Path) -> None:
        wanted = [Path(path) for name, path in self._sockets().items() if name != "line"]
        until = time.monotonic() + _START_S
        while not all(path.exists() for path in wanted):
            if kernel.poll() is not None:
                raise RuntimeError(f"The kernel ended at its start:\n{log.read_text(errors='replace')[-2000:]}")
            if self._verdict or time.monotonic() > until:
                raise RuntimeError(f"The kernel did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(_TICK_S)

    def _end(self, kernel: subprocess.Popen[bytes]) -> None:
        """End the kernel, and whatever it started and left."""
        if kernel.poll() is None:
            kernel.terminate()
            try:
                kernel.wait(_ENDS_S)
            except subprocess.TimeoutExpired:
                kernel.kill()
                kernel.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(kernel.pid, signal.SIGKILL)

    def _clear(self, *, wholly: bool = True) -> None:
        self._file.unlink(missing_ok=True)
        for socket in self._sockets().values():
            Path(socket).unlink(missing_ok=True)
        if wholly:
            for folder in {self._folder, self._place}:
                shutil.rmtree(folder, ignore_errors=True)


def _new_file() -> Path:
    from jupyter_core.paths import jupyter_runtime_dir

    place = Path(jupyter_runtime_dir())
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    return place / f"kernel-openhcs-{secrets.token_hex(8)}.json"


def _answer(pipe: int, started: Started) -> None:
    with os.fdopen(pipe, "wb") as file:
        file.write(MARK.encode() + msgspec.json.encode(started) + b"\n")


if __name__ == "__main__":
    sys.exit(main())
