"""A laptop and a server for tests: a real SSH server with a home of its own, and ``ssh lab`` that reaches it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from jupyter_client.manager import KernelManager

from tests.engine.bench import until
from tests.jupyter import TIMEOUT_S, Kernel

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
ROOT = Path(__file__).parents[2]


def can_serve() -> bool:
    """Tell whether OpenSSH's server and client are installed."""
    return SSHD is not None and shutil.which("ssh") is not None


def command_of(process: psutil.Process) -> str:
    """Return a process's command; empty if it has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Lab:
    """Two homes, and an SSH server that gives the second one.

    Parameters
    ----------
    folder
        Of both homes.
    address
        Where the server listens.
    inside
        Words before the server's command.
    options
        Of the laptop's ssh; they go before what it is called with.
    """

    def __init__(
        self, folder: Path, address: str = "127.0.0.1", inside: tuple[str, ...] = (), options: str = ""
    ) -> None:
        self.folder = folder
        self.laptop, self.home = folder / "laptop", folder / "home"
        self._inside = inside
        self._address = address
        self._heard = 0
        for place in (self.laptop, self.home):
            (place / "run").mkdir(parents=True, mode=0o700)
        self._keys(options)

    @property
    def environment(self) -> dict[str, str]:
        """The laptop's."""
        own = {
            "HOME": str(self.laptop),
            "PATH": f"{self.laptop / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "XDG_RUNTIME_DIR": str(self.laptop / "run"),
            "XDG_CONFIG_HOME": str(self.laptop / "config"),
            "JUPYTER_DATA_DIR": str(self.laptop / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(self.laptop / "jupyter" / "runtime"),
            "JUPYTER_CONFIG_DIR": str(self.laptop / "jupyter-config"),
            "JUPYTER_PATH": str(self.laptop / "prefix" / "share" / "jupyter"),
            "IPYTHONDIR": str(self.laptop / "ipython"),
        }
        return os.environ | own

    @property
    def prefix(self) -> Path:
        """Where kernelspecs of the laptop are installed."""
        return self.laptop / "prefix"

    def command(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Do ``openhcs-jupyter WORDS`` on the laptop."""
        line = [sys.executable, "-m", "openhcs_jupyter.cli", *words]
        return subprocess.run(
            line, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False, cwd=self.laptop
        )

    def install(self, *words: str, host: str = "lab") -> subprocess.CompletedProcess[str]:
        """Install the remote kernel on the laptop."""
        line = ["install", "--remote", host, "--prefix", str(self.prefix), "--python", sys.executable, *words]
        done = self.command(*line)
        assert done.returncode == 0, done.stderr
        return done

    def start(self) -> None:
        """Start the SSH server."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        command = [*self._inside, str(SSHD), "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self.server = psutil.Popen(command, stderr=log)
        said = b"Server listening"
        before = self._heard
        until(lambda: (self.folder / "sshd.log").read_bytes().count(said) > before, "the SSH server", 10)
        self._heard += 1

    def stop(self) -> None:
        """End the SSH server and its connections; what was started through it goes on."""
        for each in [self.server, *self.server.children(recursive=False)]:
            each.kill()
        self.server.wait()

    def close(self) -> None:
        """End the SSH server and all that it serves, and whatever was left."""
        for each in [*self.server.children(recursive=True), self.server, *self.left()]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self.server.wait()

    def cut(self) -> None:
        """Break all connections; new ones can be made."""
        for child in self.server.children(recursive=False):
            child.kill()

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Leave all connections open and dead, as a network does that is gone; new ones can be made."""
        silent = [child for child in self.server.children(recursive=True) if "sshd" in command_of(child)]
        for each in silent:
            each.suspend()
        try:
            yield
        finally:
            for each in silent:
                each.kill()

    def left(self) -> list[psutil.Process]:
        """List the processes that live in one of the two homes, beside this one and the server's own."""
        found = []
        own = {os.getpid(), self.server.pid, *(child.pid for child in self.server.children(recursive=False))}
        for process in psutil.process_iter():
            try:
                if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                words = " ".join(process.cmdline())
                homes = process.environ().get("HOME", "")
            except psutil.Error:
                continue
            if homes in (str(self.laptop), str(self.home)) or str(self.folder) in words:
                found.append(process)
        return found

    def named(self, text: str) -> list[psutil.Process]:
        """List those of `left` whose command has a text in it."""
        return [process for process in self.left() if text in command_of(process)]

    def _keys(self, options: str) -> None:
        folder = self.folder
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        there = {
            "HOME": self.home,
            "PYTHONPATH": ROOT,
            "XDG_RUNTIME_DIR": self.home / "run",
            "OPENHCS_DATA_DIR": self.home / "data",
            "XDG_CONFIG_HOME": self.home / "config",
            "JUPYTER_DATA_DIR": self.home / "jupyter",
            "JUPYTER_RUNTIME_DIR": self.home / "jupyter" / "runtime",
            "IPYTHONDIR": self.home / "ipython",
        }
        (folder / "sshd_config").write_text(
            f"Port {port}\nListenAddress {self._address}\nHostKey {folder}/host\n"
            f"AuthorizedKeysFile {folder}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            "SetEnv " + " ".join(f"{name}={value}" for name, value in there.items()) + "\n"
        )
        (folder / "known_hosts").write_text(f"[{self._address}]:{port} {(folder / 'host.pub').read_text()}")
        config = self.laptop / "ssh_config"
        place = f" HostName {self._address}\n Port {port}\n User {getpass.getuser()}\n"
        place += f" UserKnownHostsFile {folder}/known_hosts\n"
        key = f" IdentityFile {folder}/user\n IdentitiesOnly yes\n"
        config.write_text(
            f"Host lab\n{place}{key}"
            # Beyond a machine in between, with a key that an agent has.
            f"Host beyond\n{place} ProxyJump lab\n IdentityFile none\n"
            # Where all of the user's connections are shared already.
            f"Host shared\n{place}{key} ControlMaster auto\n ControlPath {self.laptop}/mine\n ControlPersist 600\n"
        )
        # ssh takes the home from the system's list of users, so that its configuration is named.
        (self.laptop / "bin").mkdir()
        ssh = self.laptop / "bin" / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} {options} "$@"\n')
        ssh.chmod(0o755)


@contextmanager
def lab(address: str = "127.0.0.1", inside: tuple[str, ...] = (), options: str = "") -> Iterator[Lab]:
    """Make the two homes, with names short enough for sockets, and start the server; parameters as of `Lab`."""
    with tempfile.TemporaryDirectory(prefix="lab", ignore_cleanup_errors=True) as folder:
        made = Lab(Path(folder), address, inside, options)
        made.start()
        try:
            yield made
        finally:
            made.close()


@contextmanager
def started(name: str) -> Iterator[Kernel]:
    """Start an installed kernel as this process's Jupyter, and shut it down."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT_S)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        if manager.has_kernel:
            manager.shutdown_kernel()
        manager.cleanup_resources()
