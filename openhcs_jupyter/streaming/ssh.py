"""Reaches a kernel through OpenSSH: its Unix sockets, or on Windows its ports, are forwarded to the viewer."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import msgspec

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming.keys import ConnectionFile, Endpoint, private_folder
from openhcs_jupyter.streaming.remote import RemoteSource, check_version

_AGAIN_S = (1.0, 2.0, 5.0)
_LONGEST_READ_S = 60
_OPTIONS = (
    "ExitOnForwardFailure=yes",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=2",
    "StreamLocalBindUnlink=yes",
    "StreamLocalBindMask=0177",
)


class SshSource(RemoteSource):
    """A kernel on a machine that SSH reaches. The tunnel is dug again when it breaks.

    Parameters
    ----------
    host
        As ``ssh`` takes it, such as ``user@server``.
    path
        Of the kernel's connection file, on that machine.

    Raises
    ------
    StreamError
        If there is no ``ssh``, it does not reach the machine, or there is no such file.
    """

    def __init__(self, host: str, path: str) -> None:
        found = _read_there(host, path)
        private = os.name == "posix"
        there = next((e for e in found.endpoints if e.control.startswith("ipc://") == private), None)
        if there is None:
            raise StreamError(f"{host}:{path} has no address that SSH can forward.")
        self._folder = Path(tempfile.mkdtemp(prefix="openhcs-"))
        private_folder(self._folder)
        here = _local_endpoint(self._folder, private=private)
        forwards = [
            f"{_address(mine)}:{_address(theirs)}"
            for mine, theirs in ((here.control, there.control), (here.news, there.news))
        ]
        self._command = [_ssh(), "-N", "-T"]
        for option in _OPTIONS:
            self._command += ["-o", option]
        for forward in forwards:
            self._command += ["-L", forward]
        self._command += ["--", host]
        self._leaving = threading.Event()
        self._tunnel = threading.Thread(target=self._dig, name="openhcs-tunnel", daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__(
            here,
            name=f"{found.name} at {host}",
            server_key="" if private else found.server_key,
            keys=None if private else found.viewer,
        )

    def start(self) -> None:
        """Dig the tunnel and begin to look for runs."""
        self._tunnel.start()
        super().start()

    def close(self) -> None:
        """End the tunnel, threads and connections."""
        self._leaving.set()
        super().close()
        if self._tunnel.is_alive():
            if self._process is not None:
                self._process.terminate()
            self._tunnel.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _dig(self) -> None:
        tries = 0
        while not self._leaving.is_set():
            self._process = subprocess.Popen(  # noqa: S603 - our own words, and no shell
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            if self._leaving.is_set():
                self._process.terminate()
            self._process.wait()
            self._leaving.wait(_AGAIN_S[min(tries, len(_AGAIN_S) - 1)])
            tries += 1


def _ssh() -> str:
    ssh = shutil.which("ssh")
    if ssh is None:
        raise StreamError("There is no ssh on this machine.", "Install OpenSSH.")
    return ssh


def _read_there(host: str, path: str) -> ConnectionFile:
    command = [_ssh(), "-T", "--", host, f"cat {shlex.quote(path)}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_LONGEST_READ_S, check=False)  # noqa: S603 - our own words, and no shell
    except subprocess.TimeoutExpired:
        raise StreamError(f"ssh {host} does not answer.", "Try it in a terminal.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise StreamError(f"{host}:{path} cannot be read: {said[-1] if said else 'ssh failed'}", f"Try: ssh {host}")
    try:
        found = msgspec.json.decode(done.stdout, type=ConnectionFile)
    except msgspec.MsgspecError as error:
        raise StreamError(f"{host}:{path} is no connection file: {error}") from None
    check_version(found, f"{host}:{path}")
    return found


def _local_endpoint(folder: Path, *, private: bool) -> Endpoint:
    if private:
        return Endpoint(control=f"ipc://{folder / 'control'}", news=f"ipc://{folder / 'news'}")
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    return Endpoint(control=f"tcp://127.0.0.1:{ports[0]}", news=f"tcp://127.0.0.1:{ports[1]}")


def _address(address: str) -> str:
    """Write one of ZeroMQ's addresses as ssh takes it."""
    return address.removeprefix("ipc://").removeprefix("tcp://")
