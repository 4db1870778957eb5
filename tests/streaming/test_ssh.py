"""A kernel behind a real SSH server: its Unix sockets are forwarded to the viewer's machine."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from openhcs_jupyter.errors import StreamError
from openhcs_jupyter.streaming import StreamServer, open_source
from tests.engine.bench import Bench, until
from tests.streaming.heard import Heard, Truth
from tests.streaming.test_folder import STEPS
from tests.streaming.test_remote import free_port

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
pytestmark = pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="OpenSSH's server is not installed")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Start an SSH server of this user's on the loopback, and make ``ssh lab`` reach it."""
    folder = tmp_path / "ssh"
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized_keys")
    port = free_port()
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/authorized_keys\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    known = (folder / "host.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {known}")
    config = folder / "config"
    config.write_text(
        f"Host lab\n HostName 127.0.0.1\n Port {port}\n User {getpass.getuser()}\n IdentityFile {folder}/user\n"
        f" IdentitiesOnly yes\n UserKnownHostsFile {folder}/known_hosts\n BatchMode yes\n"
    )
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    (bin_folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port), "the SSH server", 10)
        yield process
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_kernel_behind_ssh_shows_all_there_is_also_when_the_tunnel_breaks(
    bench: Bench, serve: Callable[..., StreamServer], server: subprocess.Popen[bytes]
) -> None:
    run = bench.done(*STEPS)
    file = serve(run.folder).connection_file
    with open_source(f"lab:{file}") as source:
        source._mapping = False  # both machines are one here; this viewer has everything sent
        heard = Heard(source)
        until(lambda: len(heard.stacks()) == 12, "all results")
        Truth(run).check(heard)
        for child in psutil.Process(server.pid).children(recursive=True):
            child.kill()
        until(lambda: heard.link().link == "lost", "the loss")
        until(lambda: heard.link().link == "connected", "another tunnel", 20)
        Truth(run).check(heard)
        folder = source._folder
        assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0, 0]
    assert not folder.exists()


def test_what_ssh_does_not_reach_is_told(server: subprocess.Popen[bytes]) -> None:
    with pytest.raises(StreamError, match="No such file"):
        open_source("lab:/no/such/connection.json")
    with pytest.raises(StreamError, match="nowhere"):
        open_source("nowhere.invalid:/x/connection.json")
